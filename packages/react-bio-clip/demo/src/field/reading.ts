/** Read one photograph: its hash, time, place, a thumbnail, and as many pixels as the model needs. */

import {sha256} from '@noble/hashes/sha2.js';
import {bytesToHex} from '@noble/hashes/utils.js';

import {decode} from '../photographs.js';
import {capture, type Capture} from './capture.js';

export interface Reading extends Capture {
  sha256: string;
  /** JPEG. */
  thumbnail: Blob;
  /** Upright; the caller closes it. */
  bitmap: ImageBitmap;
}

/** Photographs are scaled down to this many times the model's size: the last halvings are those of training. */
const ROOM = 4;
/** Pixels of a thumbnail's longer side. */
const SIDE = 320;

/**
 * Read a photograph for a model that looks at `size` pixels. Of a large one no more than the decoded pixels are in memory.
 *
 * @throws DOMException for a file that this browser cannot decode or read
 */
export async function readPhotograph(file: File, size: number): Promise<Reading> {
  const content = await file.arrayBuffer();
  const about = {...(await capture(content)), sha256: bytesToHex(sha256(new Uint8Array(content)))};
  const whole = await decode(file);
  const bitmap = await scaled(whole, (ROOM * size) / Math.min(whole.width, whole.height));
  if (bitmap !== whole) whole.close();
  return {...about, thumbnail: await thumbnailOf(bitmap), bitmap};
}

/** A smaller bitmap; the same one where it would not be smaller. */
async function scaled(bitmap: ImageBitmap, by: number): Promise<ImageBitmap> {
  if (by >= 1) return bitmap;
  const [resizeWidth, resizeHeight] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(by * side)));
  return createImageBitmap(bitmap, {resizeWidth, resizeHeight, resizeQuality: 'high'});
}

async function thumbnailOf(bitmap: ImageBitmap): Promise<Blob> {
  const by = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(by * side)));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d')!;
  context.fillStyle = 'white'; // under transparent pixels
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, 0, 0, width, height);
  return canvas.convertToBlob({type: 'image/jpeg', quality: 0.8});
}
