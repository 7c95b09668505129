/** A bioclip-lite bundle: bundle.json and the files that it lists, each with its SHA-256. */

import {loadGraphModel, type GraphModel} from '@tensorflow/tfjs-converter';
import type {io} from '@tensorflow/tfjs-core';

import {BioClipError, throwIfAborted} from './errors.js';
import {concatenate, messageOf, progressOf, type Origin} from './origin.js';
import {sha256} from './sha256.js';
import {readTable, type Table} from './taxa.js';
import {plantTree, type Tree} from './tree.js';
import type {BundleInfo, LoadOptions, Progress, ReadOptions} from './types.js';

export const FORMAT = 2;

export interface Bundle {
  info: BundleInfo;
  model: GraphModel;
  table: Table;
  tree: Tree;
}

type Files = Map<string, Uint8Array<ArrayBuffer>>;
type ReadBundleOptions = Pick<LoadOptions, 'signal' | 'onProgress'>;

/** The files of a bundle as they were read, whole and unaltered. */
export interface Download {
  origin: Origin;
  info: BundleInfo;
  text: Uint8Array<ArrayBuffer>;
  files: Files;
}

/** Load a bundle on the current TensorFlow.js backend. */
export async function openBundle(origin: Origin, options: ReadBundleOptions = {}): Promise<Bundle> {
  return openDownload(await downloadBundle(origin, options), options.signal);
}

/** Read all files of a bundle; needs no backend. */
export async function downloadBundle(origin: Origin, {signal, onProgress}: ReadBundleOptions): Promise<Download> {
  const {info, text} = await readInfo(origin, signal);
  return {origin, info, text, files: await readFiles(origin, info, signal, onProgress)};
}

/** Load what was downloaded on the current TensorFlow.js backend. */
export async function openDownload({origin, info, text, files}: Download, signal?: AbortSignal): Promise<Bundle> {
  const table = readTable(info, files.get(info.text.file));
  const tree = plantTree(info);
  const artifacts = modelArtifacts(info, files);
  throwIfAborted(signal);
  let model;
  try {
    model = await loadGraphModel({load: async () => artifacts});
  } catch (error) {
    throw new BioClipError(`${info.model.file}: TensorFlow.js refuses the model: ${messageOf(error)}`, info.model.file);
  }
  if (signal?.aborted) model.dispose();
  throwIfAborted(signal);
  // Only now, so that what is found offline is always complete.
  await origin.shelf?.put('bundle.json', text);
  await origin.shelf?.keep(['bundle.json', ...Object.keys(info.files)]);
  return {info, model, table, tree};
}

/** bundle.json from the network, or what the last complete load kept if there is no connection. */
async function readInfo(origin: Origin, signal?: AbortSignal) {
  let text;
  try {
    text = asBytes(await origin.read('bundle.json', {signal}));
  } catch (error) {
    throwIfAborted(signal);
    const status = error instanceof BioClipError ? error.cause : undefined;
    const gone = typeof status === 'number' && status < 500;
    const kept = gone ? undefined : await origin.shelf?.get('bundle.json');
    if (!kept) throw error;
    text = new Uint8Array(kept);
  }
  return {info: parseInfo(origin, text), text};
}

function parseInfo(origin: Origin, text: Uint8Array): BundleInfo {
  let info;
  try {
    info = JSON.parse(new TextDecoder().decode(text));
  } catch (error) {
    throw new BioClipError(
      `bundle.json in ${origin.where} is no JSON (${messageOf(error)}): is this the folder of a bundle?`,
      'bundle.json',
    );
  }
  if (info?.format !== FORMAT) {
    throw new BioClipError(
      `bundle.json in ${origin.where} has format ${info?.format}; this version of react-bio-clip reads format ` +
        `${FORMAT}: make the bundle again with the pipeline of the same version`,
      'bundle.json',
    );
  }
  for (const name of [info.text?.file, info.model?.file]) {
    if (!info.files?.[name]) throw new BioClipError(`bundle.json does not list ${name} among its files`, 'bundle.json');
  }
  return info;
}

/** All files, at the same time; the first that fails stops the others. */
async function readFiles(
  origin: Origin,
  info: BundleInfo,
  signal?: AbortSignal,
  onProgress?: (progress: Progress) => void,
): Promise<Files> {
  const onBytes = progressOf(info.bytes, onProgress);
  const stop = new AbortController();
  const forward = () => stop.abort(signal?.reason);
  if (signal?.aborted) forward();
  signal?.addEventListener('abort', forward);
  try {
    const names = Object.keys(info.files);
    const read = names.map((name) => readFile(origin, info, name, {signal: stop.signal, onBytes}));
    const contents = await Promise.all(read);
    return new Map(names.map((name, i) => [name, contents[i]]));
  } catch (error) {
    stop.abort(error);
    throwIfAborted(signal);
    throw error;
  } finally {
    signal?.removeEventListener('abort', forward);
  }
}

/** One file, from the shelf if it is there and whole, else from where the bundle comes from. */
async function readFile(origin: Origin, info: BundleInfo, name: string, options: ReadOptions) {
  const kept = await origin.shelf?.get(name);
  if (kept) {
    const bytes = new Uint8Array(kept);
    if ((await damage(info, name, bytes)) === null) {
      options.onBytes?.(bytes.length);
      return bytes;
    }
  }
  let counted = 0;
  const onBytes = (bytes: number) => {
    counted += bytes;
    options.onBytes?.(bytes);
  };
  const bytes = asBytes(await origin.read(name, {...options, onBytes}));
  const wrong = await damage(info, name, bytes);
  if (wrong !== null) throw new BioClipError(`${name} of ${origin.where} ${wrong}`, name);
  if (counted === 0) options.onBytes?.(bytes.length); // a reader that does not report by itself
  await origin.shelf?.put(name, bytes);
  return bytes;
}

/** What is wrong with the content of a file, or null. */
async function damage(info: BundleInfo, name: string, bytes: Uint8Array<ArrayBuffer>): Promise<string | null> {
  const expected = info.files[name];
  if (bytes.length !== expected.bytes) {
    return `has ${bytes.length} bytes, bundle.json says ${expected.bytes}: the download is incomplete or of another version`;
  }
  const found = await sha256(bytes);
  if (found === expected.sha256) return null;
  return `has SHA-256 ${found.slice(0, 12)}..., bundle.json says ${expected.sha256.slice(0, 12)}...: it was damaged or changed`;
}

function asBytes(content: ArrayBuffer | Uint8Array): Uint8Array<ArrayBuffer> {
  if (content instanceof ArrayBuffer) return new Uint8Array(content);
  // Node's small Buffers share one ArrayBuffer.
  return content.buffer instanceof ArrayBuffer ? (content as Uint8Array<ArrayBuffer>) : new Uint8Array(content);
}

/** The model as tf.io handlers give it. */
export function modelArtifacts(info: BundleInfo, files: Files): io.ModelArtifacts {
  const model = JSON.parse(new TextDecoder().decode(files.get(info.model.file)));
  const groups: io.WeightsManifestConfig = model.weightsManifest;
  const parts = groups
    .flatMap((group) => group.paths)
    .map((name) => {
      const part = files.get(name);
      if (!part) throw new BioClipError(`${info.model.file} needs ${name}, which bundle.json does not list`, name);
      return part;
    });
  return {
    modelTopology: model.modelTopology,
    weightSpecs: groups.flatMap((group) => group.weights),
    weightData: concatenate(parts).buffer,
    format: model.format,
    signature: model.signature,
  };
}

/** The model of a bundle without loading it: what bin/weights.mjs decodes. */
export async function readModel(origin: Origin): Promise<io.ModelArtifacts> {
  const {info} = await readInfo(origin);
  return modelArtifacts(info, await readFiles(origin, info));
}
