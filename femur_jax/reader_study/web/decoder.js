// Worker that fetches and decodes radiographs without blocking the page.
import { decode, pyramid } from "./picture.js";

self.onmessage = async ({ data: { key, url, headers } }) => {
  try {
    const response = await fetch(url, { headers });
    if (!response.ok) {
      self.postMessage({ key, status: response.status });
      return;
    }
    const levels = pyramid(await decode(await response.arrayBuffer()));
    self.postMessage({ key, levels }, levels.map((level) => level.pixels.buffer));
  } catch (error) {
    self.postMessage({ key, status: 0, error: String(error) });
  }
};
