/**
 * Turn decoded pixels into the model's input, bit for bit as workflow/bioclip_lite/photographs/preprocess.py does.
 *
 * The resampling is Pillow's (libImaging/Resample.c, 8 bits per channel): a separable antialiased filter with 22-bit
 * fixed-point coefficients, first along rows, then along columns, rounded to uint8 after each. A canvas or
 * tf.image.resizeBilinear does not antialias like this. tests/stages/test_convert.py pins both implementations bit for bit.
 */

import {BioClipError} from './errors.js';
import type {Pixels, Preprocess} from './types.js';

/** A filter and its `support`, in input pixels at scale 1. */
interface Filter {
  support: number;
  at: (x: number) => number;
}

const PRECISION_BITS = 32 - 8 - 2;

/** Keys' cubic convolution with a = -0.5. */
function cubic(x: number): number {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

const FILTERS: Record<Preprocess['interpolation'], Filter> = {
  bicubic: {support: 2, at: cubic},
  bilinear: {support: 1, at: (x) => Math.max(1 - Math.abs(x), 0)},
};

/** First input position and fixed-point coefficients, `stride` apart, of each output position. */
function filterBank(from: number, to: number, filter: Filter) {
  const scale = from / to;
  const filterScale = Math.max(scale, 1);
  const support = filter.support * filterScale;
  const stride = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(to);
  const count = new Int32Array(to);
  const coefficients = new Int32Array(to * stride);
  const weights = new Float64Array(stride);
  for (let i = 0; i < to; i++) {
    const center = (i + 0.5) * scale;
    const begin = Math.max(Math.trunc(center - support + 0.5), 0);
    const n = Math.min(Math.trunc(center + support + 0.5), from) - begin;
    const inverse = 1 / filterScale;
    let sum = 0;
    for (let k = 0; k < n; k++) {
      weights[k] = filter.at((k + begin - center + 0.5) * inverse);
      sum += weights[k]!;
    }
    for (let k = 0; k < n; k++) {
      const exact = (sum === 0 ? weights[k]! : weights[k]! / sum) * (1 << PRECISION_BITS);
      coefficients[i * stride + k] = Math.trunc(exact < 0 ? exact - 0.5 : exact + 0.5);
    }
    first[i] = begin;
    count[i] = n;
  }
  return {first, count, coefficients, stride};
}

/** RGB pixels, 3 bytes each, of the given width and height. */
export function resize(
  image: Pixels,
  width: number,
  height: number,
  interpolation: Preprocess['interpolation'],
): {data: Uint8ClampedArray; width: number; height: number} {
  const channels = image.data.length / (image.width * image.height);
  if (channels !== 3 && channels !== 4) {
    throw new BioClipError(
      'image',
      `the image has ${image.width} x ${image.height} pixels and ${image.data.length} bytes; 3 or 4 per pixel expected`,
    );
  }
  const half = 1 << (PRECISION_BITS - 1);

  const rows = new Uint8ClampedArray(width * image.height * 3);
  const horizontal = image.width === width ? null : filterBank(image.width, width, FILTERS[interpolation]);
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < width; x++) {
      const target = (y * width + x) * 3;
      if (!horizontal) {
        const source = (y * width + x) * channels;
        for (let c = 0; c < 3; c++) rows[target + c] = image.data[source + c]!;
        continue;
      }
      const {first, count, coefficients, stride} = horizontal;
      let [r, g, b] = [half, half, half];
      for (let k = 0, source = (y * image.width + first[x]!) * channels; k < count[x]!; k++, source += channels) {
        const weight = coefficients[x * stride + k]!;
        r += image.data[source]! * weight;
        g += image.data[source + 1]! * weight;
        b += image.data[source + 2]! * weight;
      }
      rows[target] = r >> PRECISION_BITS; // Uint8ClampedArray clips as Pillow's table does
      rows[target + 1] = g >> PRECISION_BITS;
      rows[target + 2] = b >> PRECISION_BITS;
    }
  }
  if (image.height === height) return {data: rows, width, height};

  const {first, count, coefficients, stride} = filterBank(image.height, height, FILTERS[interpolation]);
  const pixels = new Uint8ClampedArray(width * height * 3);
  const line = width * 3;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < line; x++) {
      let sum = half;
      for (let k = 0, source = first[y]! * line + x; k < count[y]!; k++, source += line) {
        sum += rows[source]! * coefficients[y * stride + k]!;
      }
      pixels[y * line + x] = sum >> PRECISION_BITS;
    }
  }
  return {data: pixels, width, height};
}

/** Round halves to the even neighbour, as Python's round() does. */
function roundHalfToEven(x: number): number {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Resize the shortest side to `size` and crop the central square, or ("squash") resize both sides: size x size x 3. */
export function resizeAndCrop(image: Pixels, {size, resize: mode, interpolation, crop}: Preprocess): Uint8ClampedArray {
  if (!['shortest', 'squash'].includes(mode) || !(interpolation in FILTERS) || crop !== 'center') {
    throw new BioClipError(
      'bundle',
      `bundle.json asks for preprocessing ${mode}, ${interpolation}, ${crop}, which this version does not support`,
      'bundle.json',
    );
  }
  const short = Math.min(image.width, image.height);
  const side = (length: number) => (mode === 'squash' || length === short ? size : Math.trunc((size * length) / short));
  const resized = resize(image, side(image.width), side(image.height), interpolation);
  const left = roundHalfToEven((resized.width - size) / 2);
  const top = roundHalfToEven((resized.height - size) / 2);
  const square = new Uint8ClampedArray(size * size * 3);
  for (let y = 0; y < size; y++) {
    const start = ((top + y) * resized.width + left) * 3;
    square.set(resized.data.subarray(start, start + size * 3), y * size * 3);
  }
  return square;
}

/** Compute the model's input, (pixel / 255 - mean) / std in float32: size x size x 3, channels last. */
export function preprocessImage(image: Pixels, preprocess: Preprocess): Float32Array {
  const pixels = resizeAndCrop(image, preprocess);
  const table = [0, 1, 2].map((c) => {
    const [mean, std] = [Math.fround(preprocess.mean[c]!), Math.fround(preprocess.std[c]!)];
    return Float32Array.from({length: 256}, (_, v) => Math.fround(Math.fround(v / 255) - mean) / std);
  });
  const input = new Float32Array(pixels.length);
  for (let i = 0; i < input.length; i++) input[i] = table[i % 3]![pixels[i]!]!;
  return input;
}
