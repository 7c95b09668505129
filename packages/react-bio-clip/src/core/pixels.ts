/** Pixels of elements, canvases, files and tensors. */

import {Tensor} from '@tensorflow/tfjs-core';

import {BioClipError} from './errors.js';
import type {ImageInput, Pixels} from './types.js';

/** Some phones refuse a larger canvas. The browser scales larger photographs down first. */
const LARGEST_CANVAS = 16_777_216;

/** The value of white in a tensor, by its type. */
const WHITE: Partial<Record<string, number>> = {int32: 255, float32: 1};

/** The photographs of one observation. Throws for none. */
export function listOf(image: ImageInput | readonly ImageInput[]): readonly ImageInput[] {
  const images = Array.isArray(image) ? (image as readonly ImageInput[]) : [image as ImageInput];
  if (!images.length) throw new BioClipError('argument', 'classify was given an empty list of photographs');
  return images;
}

/** Copy the current pixels of an image: a video plays on, a canvas may be drawn over. */
export async function pixelsOf(image: ImageInput): Promise<Pixels> {
  if (image instanceof Tensor) return tensorPixels(image);
  if (is(image, 'Blob')) {
    // Ignore colour profiles, as in training.
    const bitmap = await createImageBitmap(image, {colorSpaceConversion: 'none'}).catch((error) => {
      throw new BioClipError('image', `the file cannot be decoded as an image (${error.message})`, null, error);
    });
    const pixels = draw(bitmap, bitmap.width, bitmap.height);
    bitmap.close();
    return pixels;
  }
  if (is(image, 'HTMLImageElement')) {
    if (!image.complete) await image.decode().catch(() => {});
    return draw(image, image.naturalWidth, image.naturalHeight);
  }
  if (is(image, 'HTMLVideoElement')) return draw(image, image.videoWidth, image.videoHeight);
  if (is(image, 'HTMLCanvasElement') || is(image, 'OffscreenCanvas') || is(image, 'ImageBitmap')) {
    return draw(image, image.width, image.height);
  }
  if (isPixels(image)) return image;
  throw new BioClipError(
    'image',
    'not an image: give an image, video or canvas element, ImageBitmap, ImageData, Blob, tensor or {data, width, height}',
  );
}

interface Classes {
  Blob: Blob;
  HTMLImageElement: HTMLImageElement;
  HTMLVideoElement: HTMLVideoElement;
  HTMLCanvasElement: HTMLCanvasElement;
  OffscreenCanvas: OffscreenCanvas;
  ImageBitmap: ImageBitmap;
}

/** `instanceof` for a class that this environment (Node, a worker) may lack. */
export function is<K extends keyof Classes>(value: unknown, name: K): value is Classes[K] {
  const found = (globalThis as unknown as Record<string, new () => unknown>)[name];
  return found !== undefined && value instanceof found;
}

function isPixels(value: unknown): value is Pixels {
  const {data, width, height} = (value ?? {}) as Partial<Pixels>;
  const bytes = data instanceof Uint8Array || data instanceof Uint8ClampedArray;
  return bytes && Number.isInteger(width) && Number.isInteger(height) && width! > 0 && height! > 0;
}

function draw(image: CanvasImageSource, width: number, height: number): Pixels {
  if (!(width > 0 && height > 0)) throw new BioClipError('image', 'the image has no pixels: has it been loaded?');
  const scale = Math.min(1, Math.sqrt(LARGEST_CANVAS / (width * height)));
  const [w, h] = [Math.max(1, Math.floor(width * scale)), Math.max(1, Math.floor(height * scale))];
  const context = canvasOf(w, h);
  context.fillStyle = 'white'; // under transparent pixels, as in training
  context.fillRect(0, 0, w, h);
  context.imageSmoothingQuality = 'high';
  context.drawImage(image, 0, 0, w, h);
  return context.getImageData(0, 0, w, h, {colorSpace: 'srgb'});
}

function canvasOf(width: number, height: number): CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D {
  const canvas =
    typeof OffscreenCanvas === 'undefined' ? document.createElement('canvas') : new OffscreenCanvas(width, height);
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext('2d', {willReadFrequently: true}) as CanvasRenderingContext2D | null;
  if (!context) throw new BioClipError('image', `the browser has no canvas of ${width} x ${height} pixels`);
  return context;
}

async function tensorPixels(image: Tensor): Promise<Pixels> {
  const [height = 0, width = 0, channels] = image.shape;
  if (image.rank !== 3 || (channels !== 3 && channels !== 4)) {
    throw new BioClipError(
      'image',
      `the tensor has shape ${image.shape.join(' x ')}; height x width x 3 or 4 expected`,
    );
  }
  const white = WHITE[image.dtype];
  if (!white) throw new BioClipError('image', `the tensor has type ${image.dtype}; int32 or float32 expected`);
  const values = (await image.data()) as Float32Array | Int32Array;
  checkRange(values, image.dtype, white);
  return {data: Uint8ClampedArray.from(values, (value) => (value * 255) / white), width, height};
}

/** Throw if the values are of another scale; a filter may have overshot black and white a little. */
function checkRange(values: Float32Array | Int32Array, dtype: string, white: number): void {
  const strange = values.find((value) => !(value >= -white / 2 && value <= 1.5 * white));
  if (strange === undefined) return;
  const hint = dtype === 'float32' ? ': divide values of 0..255 by 255, or cast them to int32' : '';
  throw new BioClipError('image', `the tensor has the value ${strange}; ${dtype} must be in 0..${white}${hint}`);
}
