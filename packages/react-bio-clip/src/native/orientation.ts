/** Exif orientation of JPEG files, which the decoders for React Native ignore. */

import type {Pixels} from '../core/types.js';

const ORIENTATION = 0x0112;

/**
 * @param jpeg the whole file
 * @returns Exif orientation 1 to 8; 1, upright, if the file states none
 */
export function exifOrientation(jpeg: Uint8Array): number {
  const view = new DataView(jpeg.buffer, jpeg.byteOffset, jpeg.byteLength);
  try {
    let at = 2; // after the marker that starts the file
    while (view.getUint8(at) === 0xff && view.getUint8(at + 1) !== 0xda) {
      const length = view.getUint16(at + 2);
      const isExif = view.getUint8(at + 1) === 0xe1 && view.getUint32(at + 4) === 0x45786966; // APP1, "Exif"
      if (isExif) return tiffOrientation(view, at + 10);
      at += 2 + length;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // cut short or damaged: decoding will fail
  }
  return 1;
}

function tiffOrientation(view: DataView, start: number): number {
  const little = view.getUint16(start) === 0x4949;
  const directory = start + view.getUint32(start + 4, little);
  const entries = view.getUint16(directory, little);
  for (let i = 0; i < entries; i++) {
    const entry = directory + 2 + 12 * i;
    if (view.getUint16(entry, little) !== ORIENTATION) continue;
    const value = view.getUint16(entry + 8, little);
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}

/** Turn a picture upright. */
export function upright({data, width, height}: Pixels, orientation: number): Pixels {
  if (orientation === 1) return {data, width, height};
  const channels = data.length / (width * height);
  const turned = orientation > 4; // on its side: rows become columns
  const [newWidth, newHeight] = turned ? [height, width] : [width, height];
  const fromTheRight = [2, 3, 7, 8].includes(orientation);
  const fromBelow = [3, 4, 6, 7].includes(orientation);
  const result = new Uint8Array(data.length);
  for (let y = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++) {
      const [across, down] = turned ? [y, x] : [x, y];
      const column = fromTheRight ? width - 1 - across : across;
      const row = fromBelow ? height - 1 - down : down;
      const from = (row * width + column) * channels;
      for (let c = 0; c < channels; c++) result[(y * newWidth + x) * channels + c] = data[from + c]!;
    }
  }
  return {data: result, width: newWidth, height: newHeight};
}
