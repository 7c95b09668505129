/**
 * React Native: the same model from files that were built into the application, and photographs as JPEG files.
 *
 * `NativeAdapter` is the interface to a device; `react-bio-clip/native/expo` implements it. The application imports a
 * backend for TensorFlow.js: that of @tensorflow/tfjs-react-native (rn-webgl), or cpu. Hermes has no WebAssembly.
 */

import * as tf from '@tensorflow/tfjs-core';

import {openBioClip} from '../core/clip.js';
import {BioClipError} from '../core/errors.js';
import type {Answer, BioClip, CallOptions, ClassifyOptions, LoadOptions, Pixels} from '../core/types.js';
import {useBioClipFrom} from '../react/useBioClipFrom.js';
import type {UseBioClip, UseBioClipOptions} from '../react/useBioClipFrom.js';
import {completeEngine} from './engine.js';
import {exifOrientation, upright} from './orientation.js';

export {BioClipError} from '../core/errors.js';
export type {BioClipErrorCode} from '../core/errors.js';
export type * from '../core/types.js';

/** Functions of a device that this package calls. */
export interface NativeAdapter {
  /** Read one file of the bundle, by its name in bundle.json. */
  readFile(name: string): Promise<ArrayBuffer | Uint8Array>;
  /** Decode to pixels as stored, RGB or RGBA; this package turns them upright. */
  decodeJpeg(jpeg: Uint8Array): Pixels | Promise<Pixels>;
}

/** A model that also takes JPEG files. */
export interface NativeBioClip extends BioClip {
  classifyJpeg(jpeg: Uint8Array, options?: ClassifyOptions): Promise<Answer>;
  embedJpeg(jpeg: Uint8Array, options?: CallOptions): Promise<Float32Array>;
}

/**
 * Load a bundle that is part of the application; nothing is downloaded. Default backend: the current one.
 *
 * @throws BioClipError that names the file if one is missing, damaged or of another format
 */
export async function loadBioClip(adapter: NativeAdapter, options: LoadOptions = {}): Promise<NativeBioClip> {
  const {backend, ...rest} = options;
  completeEngine();
  await tf.ready();
  if (backend && !(await tf.setBackend(backend)))
    throw new BioClipError('backend', `the backend ${backend} does not start here`);
  const clip = await openBioClip((name) => adapter.readFile(name), rest);
  const open = async (jpeg: Uint8Array) => upright(await decode(adapter, jpeg), exifOrientation(jpeg));
  return {
    ...clip,
    classifyJpeg: async (jpeg, asked) => clip.classify(await open(jpeg), asked),
    embedJpeg: async (jpeg, asked) => clip.embed(await open(jpeg), asked),
  };
}

/** `useBioClipFrom` with this `loadBioClip`. */
export function useBioClip(adapter: NativeAdapter | null, options?: UseBioClipOptions): UseBioClip<NativeBioClip> {
  return useBioClipFrom(loadBioClip, adapter, options);
}

async function decode(adapter: NativeAdapter, jpeg: Uint8Array): Promise<Pixels> {
  if (jpeg[0] !== 0xff || jpeg[1] !== 0xd8) throw new BioClipError('image', 'the photograph is no JPEG file');
  try {
    return await adapter.decodeJpeg(jpeg);
  } catch (error) {
    throw new BioClipError('image', `the photograph cannot be decoded: ${(error as Error).message}`, null, error);
  }
}
