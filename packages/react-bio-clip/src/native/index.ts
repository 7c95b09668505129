/**
 * React Native: the same model from files that were built into the application, and photographs as JPEG files.
 *
 * `NativeAdapter` is the interface to a device; `react-bio-clip/native/expo` implements it. The bundle says what runs
 * its model: LiteRT (data/convert/tflite), or TensorFlow.js (data/convert/tfjs), for which the application imports a
 * backend: that of @tensorflow/tfjs-react-native (rn-webgl), or cpu. Hermes has no WebAssembly.
 */

import * as tf from '@tensorflow/tfjs-core';

import {downloadBundle, openDownload} from '../core/bundle.js';
import {clipOf} from '../core/clip.js';
import {BioClipError} from '../core/errors.js';
import {originOf} from '../core/origin.js';
import type {Answer, BioClip, BundleInfo, CallOptions, ClassifyOptions, LoadOptions, Pixels} from '../core/types.js';
import {useBioClipFrom} from '../react/useBioClipFrom.js';
import type {UseBioClip, UseBioClipOptions} from '../react/useBioClipFrom.js';
import {completeEngine} from './engine.js';
import {exifOrientation, upright} from './orientation.js';
import {isTflite, openerOf, type OpenTflite} from './tflite.js';

export {BioClipError} from '../core/errors.js';
export type {BioClipErrorCode} from '../core/errors.js';
export type * from '../core/types.js';
export type {TfliteModel} from './tflite.js';

/** Functions of a device that this package calls. */
export interface NativeAdapter {
  /** Read one file of the bundle, by its name in bundle.json. */
  readFile(name: string): Promise<ArrayBuffer | Uint8Array>;
  /** Decode to pixels as stored, RGB or RGBA; this package turns them upright. */
  decodeJpeg(jpeg: Uint8Array): Pixels | Promise<Pixels>;
  /** Load the model of a bundle for LiteRT, by the name of its file in bundle.json. */
  openTflite?: OpenTflite;
  /**
   * Read a photograph on the device as upright pixels, scaled down as far as the shorter side keeps at least
   * `shortest` pixels.
   */
  readPhotograph?(uri: string, shortest: number): Promise<Pixels>;
}

/** A model that also takes JPEG files, and the addresses of photographs on the device. */
export interface NativeBioClip extends BioClip {
  classifyJpeg(jpeg: Uint8Array, options?: ClassifyOptions): Promise<Answer>;
  embedJpeg(jpeg: Uint8Array, options?: CallOptions): Promise<Float32Array>;
  classifyUri(uri: string, options?: ClassifyOptions): Promise<Answer>;
  embedUri(uri: string, options?: CallOptions): Promise<Float32Array>;
}

/** Scaled by the device to this many times the model's size at the least: the last halving is that of training. */
const ROOM = 2;

/**
 * Load a bundle that is part of the application; nothing is downloaded. Default backend of TensorFlow.js: the current
 * one. A bundle for LiteRT needs none.
 *
 * @throws BioClipError that names the file if one is missing, damaged or of another format
 */
export async function loadBioClip(adapter: NativeAdapter, options: LoadOptions = {}): Promise<NativeBioClip> {
  const {backend, ...rest} = options;
  completeEngine();
  const download = await downloadBundle(await originOf((name) => adapter.readFile(name)), rest);
  const {info} = download;
  const inLitert = isTflite(info.model.file);
  if (!inLitert) await startTensorFlow(backend);
  const clip = clipOf(await openDownload(download, options.signal, inLitert ? litertOf(adapter, info) : undefined));
  const open = async (jpeg: Uint8Array) => upright(await decode(adapter, jpeg), exifOrientation(jpeg));
  const read = async (uri: string) => readerOf(adapter)(uri, ROOM * info.preprocess.size);
  return {
    ...clip,
    classifyJpeg: async (jpeg, asked) => clip.classify(await open(jpeg), asked),
    embedJpeg: async (jpeg, asked) => clip.embed(await open(jpeg), asked),
    classifyUri: async (uri, asked) => clip.classify(await read(uri), asked),
    embedUri: async (uri, asked) => clip.embed(await read(uri), asked),
  };
}

async function startTensorFlow(backend?: string): Promise<void> {
  await tf.ready();
  if (backend && !(await tf.setBackend(backend)))
    throw new BioClipError('backend', `the backend ${backend} does not start here`);
}

function litertOf({openTflite}: NativeAdapter, {model}: BundleInfo) {
  if (openTflite) return openerOf(openTflite);
  throw new BioClipError(
    'environment',
    `${model.file} is for LiteRT: install react-native-fast-tflite and give the adapter its loadTensorflowModel, or ` +
      'take the bundle for TensorFlow.js (data/convert/tfjs)',
    model.file,
  );
}

function readerOf({readPhotograph}: NativeAdapter) {
  if (readPhotograph) return readPhotograph;
  throw new BioClipError('argument', 'this adapter has no readPhotograph, so photographs are given as JPEG files');
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
