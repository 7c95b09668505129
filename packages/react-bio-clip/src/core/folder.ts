/** A folder that stage convert wrote: a manifest and the files that it lists, each with its SHA-256. */

import {loadGraphModel, type GraphModel} from '@tensorflow/tfjs-converter';
import type {io} from '@tensorflow/tfjs-core';

import {BioClipError, throwIfAborted} from './errors.js';
import {concatenate, messageOf, progressOf, type Manifest, type Origin} from './origin.js';
import {sha256} from './sha256.js';
import type {LoadOptions, ReadOptions} from './types.js';

/** Entries that every manifest has. */
export interface Listing {
  format: number;
  model: {file: string};
  files: Record<string, {bytes: number; sha256: string}>;
  bytes: number;
}

export interface Kind<Info extends Listing> {
  manifest: Manifest;
  /** Name of the folder's content in error messages. */
  label: string;
  format: number;
  /** Names of the files that the manifest refers to; it must list them all. */
  uses(info: Info): (string | undefined)[];
}

export type Files = Map<string, Uint8Array<ArrayBuffer>>;
export type ReadFolderOptions = Pick<LoadOptions, 'signal' | 'onProgress'>;

/** The files of a folder, checked against their sizes and hashes. */
export interface Download<Info> {
  origin: Origin;
  info: Info;
  text: Uint8Array<ArrayBuffer>;
  files: Files;
}

/** Read the manifest from the network; without a connection, the copy that the last complete load stored. */
export async function readInfo<Info extends Listing>(origin: Origin, kind: Kind<Info>, signal?: AbortSignal) {
  let text: Uint8Array<ArrayBuffer>;
  try {
    text = asBytes(await origin.read(kind.manifest, {signal}));
  } catch (error) {
    throwIfAborted(signal);
    const status = error instanceof BioClipError ? error.cause : undefined;
    const gone = typeof status === 'number' && status < 500;
    const kept = gone ? undefined : await origin.shelf?.get(kind.manifest);
    if (!kept) throw error;
    text = new Uint8Array(kept);
  }
  return {info: parseInfo(origin, kind, text), text};
}

function parseInfo<Info extends Listing>(
  {where}: Origin,
  {manifest, label, format, uses}: Kind<Info>,
  text: Uint8Array,
): Info {
  let info: Info;
  try {
    info = JSON.parse(new TextDecoder().decode(text));
  } catch (error) {
    throw new BioClipError(
      `${manifest} in ${where} is no JSON (${messageOf(error)}): is this the folder of a ${label}?`,
      manifest,
    );
  }
  if (info?.format !== format) {
    throw new BioClipError(
      `${manifest} in ${where} has format ${info?.format}; this version of react-bio-clip reads format ${format}: ` +
        `make the ${label} again with the pipeline of the same version`,
      manifest,
    );
  }
  for (const name of uses(info)) {
    if (name === undefined || !info.files?.[name])
      throw new BioClipError(`${manifest} does not list ${name} among its files`, manifest);
  }
  return info;
}

/** Read all files at the same time; the first failure stops the others. */
export async function readFiles(
  origin: Origin,
  manifest: Manifest,
  info: Listing,
  {signal, onProgress}: ReadFolderOptions = {},
): Promise<Files> {
  const onBytes = progressOf(info.bytes, onProgress);
  const stop = new AbortController();
  const forward = () => stop.abort(signal?.reason);
  if (signal?.aborted) forward();
  signal?.addEventListener('abort', forward);
  try {
    const names = Object.keys(info.files);
    const read = names.map((name) => readFile(origin, manifest, info, name, {signal: stop.signal, onBytes}));
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

/** Read one file from the shelf if it is there and whole, else from the folder itself. */
async function readFile(origin: Origin, manifest: Manifest, info: Listing, name: string, options: ReadOptions) {
  const kept = await origin.shelf?.get(name);
  if (kept) {
    const bytes = new Uint8Array(kept);
    if ((await damage(manifest, info, name, bytes)) === null) {
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
  const wrong = await damage(manifest, info, name, bytes);
  if (wrong !== null) throw new BioClipError(`${name} of ${origin.where} ${wrong}`, name);
  if (counted === 0) options.onBytes?.(bytes.length); // this reader does not report progress
  await origin.shelf?.put(name, bytes);
  return bytes;
}

/** Why the content of a file cannot be used, or null if it can. */
async function damage(manifest: Manifest, info: Listing, name: string, bytes: Uint8Array<ArrayBuffer>) {
  const expected = info.files[name];
  if (bytes.length !== expected.bytes) {
    return `has ${bytes.length} bytes, ${manifest} says ${expected.bytes}: the download is incomplete or of another version`;
  }
  const found = await sha256(bytes);
  if (found === expected.sha256) return null;
  return `has SHA-256 ${found.slice(0, 12)}..., ${manifest} says ${expected.sha256.slice(0, 12)}...: it was damaged or changed`;
}

function asBytes(content: ArrayBuffer | Uint8Array): Uint8Array<ArrayBuffer> {
  if (content instanceof ArrayBuffer) return new Uint8Array(content);
  // Node's small Buffers share one ArrayBuffer.
  return content.buffer instanceof ArrayBuffer ? (content as Uint8Array<ArrayBuffer>) : new Uint8Array(content);
}

/** The model in the form that tf.io handlers return. */
export function modelArtifacts(manifest: Manifest, info: Listing, files: Files): io.ModelArtifacts {
  const model = JSON.parse(new TextDecoder().decode(files.get(info.model.file)));
  const groups: io.WeightsManifestConfig = model.weightsManifest;
  const parts = groups
    .flatMap((group) => group.paths)
    .map((name) => {
      const part = files.get(name);
      if (!part) throw new BioClipError(`${info.model.file} needs ${name}, which ${manifest} does not list`, name);
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

/** Load the model on the current TensorFlow.js backend, last: all other content of the files has been checked. */
export async function openModel<Info extends Listing>(
  {origin, info, text, files}: Download<Info>,
  manifest: Manifest,
  signal?: AbortSignal,
): Promise<GraphModel> {
  const artifacts = modelArtifacts(manifest, info, files);
  throwIfAborted(signal);
  let model: GraphModel;
  try {
    model = await loadGraphModel({load: async () => artifacts});
  } catch (error) {
    throw new BioClipError(`${info.model.file}: TensorFlow.js refuses the model: ${messageOf(error)}`, info.model.file);
  }
  if (signal?.aborted) model.dispose();
  throwIfAborted(signal);
  // Only now, so that the copy for offline use is always complete.
  await origin.shelf?.put(manifest, text);
  await origin.shelf?.keep([manifest, ...Object.keys(info.files)]);
  return model;
}
