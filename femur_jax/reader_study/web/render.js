// Resamples 16-bit values for the screen, and applies the window.

/**
 * Returns the window as a table from 16-bit values to opaque grey pixels.
 * DICOM PS3.3 C.11.2.1.3.2 (LINEAR_EXACT): y = ((x - level) / width + 0.5) * 255, clipped to 0..255.
 */
export function windowTable(level, width, invert) {
  const table = new Uint32Array(65536);
  for (let x = 0; x < 65536; x++) {
    const y = Math.round(255 * Math.min(1, Math.max(0, (x - level) / width + 0.5)));
    table[x] = 0xff000000 | ((invert ? 255 - y : y) * 0x010101);
  }
  return table;
}

/** Returns each screen pixel's left neighbour in a level, and the weight of its right neighbour. */
function taps(start, count, offset, scale, length) {
  const index = new Int32Array(count), weight = new Float32Array(count);
  for (let n = 0; n < count; n++) {
    const at = Math.min(length - 1, Math.max(0, (start + n + 0.5) / scale + offset - 0.5));
    index[n] = Math.min(Math.floor(at), Math.max(0, length - 2));
    weight[n] = at - index[n];
  }
  return [index, weight];
}

/**
 * Samples a view of a pyramid.
 * @param levels  levels of the pyramid, finest first
 * @param view    x, y: position in the radiograph at the canvas' top left corner; scale: screen
 *                pixels per pixel of the radiograph; width, height: size of the canvas
 * @param out     Uint16Array of width x height values, filled within the returned box
 * @param smooth  true for linear interpolation, false for the nearest pixel (five times faster)
 * @returns       box that the radiograph covers on the canvas: left, top, right, bottom
 */
export function resample(levels, view, out, smooth) {
  const finest = levels[0];
  const box = {
    left: Math.max(0, Math.round(-view.x * view.scale)),
    top: Math.max(0, Math.round(-view.y * view.scale)),
    right: Math.min(view.width, Math.round((finest.width - view.x) * view.scale)),
    bottom: Math.min(view.height, Math.round((finest.height - view.y) * view.scale)),
  };
  const columns = box.right - box.left, rows = box.bottom - box.top;
  if (columns <= 0 || rows <= 0) return { left: 0, top: 0, right: 0, bottom: 0 };
  // The coarsest level with at least one pixel for each screen pixel.
  const n = Math.min(levels.length - 1, Math.max(0, Math.floor(Math.log2(1 / view.scale))));
  const { width, height, pixels } = levels[n];
  const shrink = 2 ** n, scale = view.scale * shrink;
  const [xs, wx] = taps(box.left, columns, view.x / shrink, scale, width);
  const [ys, wy] = taps(box.top, rows, view.y / shrink, scale, height);
  if (!smooth) {
    xs.forEach((x, column) => { xs[column] = Math.round(x + wx[column]); });
    for (let row = 0; row < rows; row++) {
      const line = Math.round(ys[row] + wy[row]) * width;
      let to = (box.top + row) * view.width + box.left;
      for (let column = 0; column < columns; column++) out[to++] = pixels[line + xs[column]];
    }
    return box;
  }
  const right = width > 1 ? 1 : 0, down = height > 1 ? width : 0;
  for (let row = 0; row < rows; row++) {
    const line = ys[row] * width, vertical = wy[row];
    let to = (box.top + row) * view.width + box.left;
    for (let column = 0; column < columns; column++) {
      const at = line + xs[column], horizontal = wx[column];
      const above = pixels[at] + (pixels[at + right] - pixels[at]) * horizontal;
      const next = at + down;
      const below = pixels[next] + (pixels[next + right] - pixels[next]) * horizontal;
      out[to++] = above + (below - above) * vertical + 0.5;
    }
  }
  return box;
}
