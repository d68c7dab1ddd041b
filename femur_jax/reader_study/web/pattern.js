// Test pattern for the display check, modelled on SMPTE RP 133 and AAPM TG18-QC: grey steps with faint
// squares, a 5% square in black and a 95% square in white, fine lines, and a grey ramp.

const WIDTH = 1600, HEIGHT = 1000, WHITE = 65535;

export function testPattern() {
  const pixels = new Uint16Array(WIDTH * HEIGHT).fill(0.2 * WHITE);
  const rectangle = (left, top, width, height, share) => {
    for (let y = top; y < top + height; y++) {
      pixels.fill(share * WHITE, y * WIDTH + left, y * WIDTH + left + width);
    }
  };
  for (let step = 0; step <= 10; step++) {
    const share = step / 10, left = 60 + 136 * step;
    rectangle(left, 90, 120, 220, share);
    rectangle(left + 40, 180, 40, 40, share + (step < 10 ? 0.02 : -0.02));
  }
  rectangle(60, 390, 320, 240, 0);
  rectangle(160, 450, 120, 120, 0.05);
  rectangle(1220, 390, 320, 240, 1);
  rectangle(1320, 450, 120, 120, 0.95);
  for (let group = 0; group < 4; group++) {
    const period = 2 * (1 + (group >> 1)), left = 500 + 160 * group;
    for (let n = 0; n < 120; n++) {
      const light = n % period < period / 2 ? 0.65 : 0.35;
      if (group % 2) rectangle(left, 450 + n, 120, 1, light);
      else rectangle(left + n, 450, 1, 120, light);
    }
  }
  for (let x = 0; x < 1480; x++) rectangle(60 + x, 710, 1, 180, x / 1479);
  return { width: WIDTH, height: HEIGHT, pixels };
}
