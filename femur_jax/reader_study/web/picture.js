// Decodes radiographs to 16-bit values, and builds a pyramid of levels, finest first.

const MAGIC = 0x31726a66; // "fjr1"

/** Decodes the bytes of pictures.encode (Python) without loss. */
export async function decode(buffer) {
  const [magic, height, width, length] = new Uint32Array(buffer, 0, 4);
  if (magic !== MAGIC) throw new Error("not a radiograph");
  const body = new Blob([new Uint8Array(buffer, 16, length)]).stream();
  const inflated = body.pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(inflated).arrayBuffer());
  const count = width * height;
  if (planes.length !== 2 * count) throw new Error("the size of the radiograph is wrong");
  const pixels = new Uint16Array(count);
  for (let row = 0, i = 0; row < height; row++) {
    let value = 0;
    for (const end = i + width; i < end; i++) {
      const zigzag = planes[i] | (planes[count + i] << 8);
      value += (zigzag >>> 1) ^ -(zigzag & 1);
      pixels[i] = value; // modulo 65536
    }
  }
  return { width, height, pixels };
}

/** Averages blocks of 2 x 2 pixels. An odd last row or column is repeated. */
function halve({ width, height, pixels }) {
  const w = Math.ceil(width / 2), h = Math.ceil(height / 2);
  const out = new Uint16Array(w * h);
  for (let y = 0; y < h; y++) {
    const above = 2 * y * width;
    const below = Math.min(2 * y + 1, height - 1) * width;
    for (let x = 0; x < w; x++) {
      const left = 2 * x, right = Math.min(left + 1, width - 1);
      out[y * w + x] = (pixels[above + left] + pixels[above + right]
        + pixels[below + left] + pixels[below + right] + 2) >> 2;
    }
  }
  return { width: w, height: h, pixels: out };
}

/** Returns the radiograph and its halved versions, so that a small view does not skip pixels. */
export function pyramid(picture) {
  const levels = [picture];
  while (Math.max(levels.at(-1).width, levels.at(-1).height) > 64) {
    levels.push(halve(levels.at(-1)));
  }
  return levels;
}
