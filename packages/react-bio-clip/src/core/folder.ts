/** A folder that stage convert wrote: a manifest and the files that it lists, each with its SHA-256. */

import {loadGraphModel, type GraphModel} from '@tensorflow/tfjs-converter';
import type {io} from '@tensorflow/tfjs-core';

import {abortable, BioClipError, controllerUnder, throwIfAborted, within} from './errors.js';
import {onTensorFlow, type Model} from './model.js';
import {checkFileName} from './names.js';
import {concatenate, messageOf, progressOf, signatureOf, type Manifest, type Origin} from './origin.js';
import {sha256} from './sha256.js';
import {checkSignature} from './signature.js';
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
  formats: number[];
  /** Names of the files that the manifest refers to; it must list them all. */
  uses(info: Info): (string | undefined)[];
  /** Names of the files that are read when they are needed. */
  later?(info: Info): string[];
  /** Throws if it is not what the caller can use. */
  check?(info: Info): void;
}

export type Files = Map<string, Uint8Array<ArrayBuffer>>;
export type ReadFolderOptions = Pick<LoadOptions, 'signal' | 'onProgress' | 'integrity' | 'publicKey'>;

/** The files of a folder, checked against their sizes and hashes. */
export interface Download<Info> {
  origin: Origin;
  info: Info;
  text: Uint8Array<ArrayBuffer>;
  /** Empty where no key is given to check it. */
  signature: Uint8Array<ArrayBuffer>;
  files: Files;
  /** Whether all of it lies on the shelf already. */
  isStored: boolean;
}

/** Milliseconds after which a stored copy answers; a newer version that arrives later is stored for the next load. */
const GRACE = 2_000;

/**
 * Read a folder: its newest version, or the stored one where the newest fails or does not arrive in time. A stored copy
 * that has the `integrity` asked for is the newest.
 */
export async function download<Info extends Listing>(
  origin: Origin,
  kind: Kind<Info>,
  options: ReadFolderOptions = {},
): Promise<Download<Info>> {
  const {integrity, onProgress} = options;
  const began = Date.now();
  const kept = await readKept(origin, kind, options);
  if (!kept) return fetchFolder(origin, kind, options);
  const found = integrity ? kept : await newest(origin, kind, kept, began + GRACE, options);
  const total = bytesOf(found.info, atOnce(kind, found.info));
  onProgress?.({loaded: total, total});
  return found;
}

/** Names of the files that are read at once. */
function atOnce<Info extends Listing>({later}: Kind<Info>, info: Info): string[] {
  const others = new Set(later?.(info));
  return Object.keys(info.files).filter((name) => !others.has(name));
}

const bytesOf = ({files}: Listing, names: string[]) => names.reduce((sum, name) => sum + files[name]!.bytes, 0);

/** The version in the folder, or `kept` if it does not arrive before the deadline. */
async function newest<Info extends Listing>(
  origin: Origin,
  kind: Kind<Info>,
  kept: Download<Info>,
  deadline: number,
  {signal, publicKey}: ReadFolderOptions,
): Promise<Download<Info>> {
  const update = fetchFolder(origin, kind, {signal, publicKey}, kept);
  try {
    return await abortable(within(update, deadline - Date.now(), `${kind.manifest} is late`), signal);
  } catch {
    throwIfAborted(signal);
    // No connection, the page of a portal, a folder that is being changed: no reason to fail, and the next load asks again.
    update.then((late) => store(late, kind.manifest)).catch(() => {});
    return kept;
  }
}

/** Read what an earlier load stored; null if something is missing, damaged, or not what is asked for. */
async function readKept<Info extends Listing>(
  origin: Origin,
  kind: Kind<Info>,
  options: ReadFolderOptions,
): Promise<Download<Info> | null> {
  const {shelf} = origin;
  if (!shelf) return null;
  try {
    const text = new Uint8Array((await shelf.get(kind.manifest)) ?? []);
    const signature = new Uint8Array((await shelf.get(signatureOf(kind.manifest))) ?? []);
    const info = await readInfo(origin, kind, text, signature, options);
    const read = atOnce(kind, info).map(async (name) => {
      const bytes = new Uint8Array((await shelf.get(name)) ?? []);
      const wrong = await damage(kind.manifest, info, name, bytes);
      if (wrong !== null) throw new BioClipError('damaged', wrong, name);
      return [name, bytes] as const;
    });
    return {origin, info, text, signature, files: new Map(await Promise.all(read)), isStored: true};
  } catch {
    return null; // the folder itself will do, or state what is wrong
  }
}

/** Read the version in the folder, file by file from the shelf where it has them; gives `kept` if that is the one. */
async function fetchFolder<Info extends Listing>(
  origin: Origin,
  kind: Kind<Info>,
  options: ReadFolderOptions,
  kept?: Download<Info>,
): Promise<Download<Info>> {
  const text = asBytes(await origin.read(kind.manifest, {signal: options.signal}));
  if (kept && text.length === kept.text.length && text.every((byte, i) => byte === kept.text[i])) return kept;
  const signature = await readSignature(origin, kind.manifest, options);
  const info = await readInfo(origin, kind, text, signature, options);
  const files = await readFiles(origin, kind.manifest, info, atOnce(kind, info), options);
  return {origin, info, text, signature, files, isStored: false};
}

/** The signature of a manifest; nothing is asked for without a key to check it. */
async function readSignature(origin: Origin, manifest: Manifest, {signal, publicKey}: ReadFolderOptions) {
  return asBytes(publicKey === undefined ? new Uint8Array() : await origin.read(signatureOf(manifest), {signal}));
}

async function readInfo<Info extends Listing>(
  origin: Origin,
  kind: Kind<Info>,
  text: Uint8Array<ArrayBuffer>,
  signature: Uint8Array<ArrayBuffer>,
  {integrity, publicKey}: ReadFolderOptions,
): Promise<Info> {
  if (integrity !== undefined) await checkIntegrity(origin, kind.manifest, text, integrity);
  if (publicKey !== undefined) await checkSignature(origin.where, kind.manifest, text, signature, publicKey);
  const info = parseInfo(origin, kind, text);
  kind.check?.(info);
  return info;
}

async function checkIntegrity({where}: Origin, manifest: Manifest, text: Uint8Array<ArrayBuffer>, integrity: string) {
  if (!/^[0-9a-f]{64}$/i.test(integrity)) {
    throw new BioClipError(
      'argument',
      `integrity is ${integrity}, not a SHA-256 of 64 hexadecimal digits: sha256sum ${manifest} prints it`,
    );
  }
  const found = await sha256(text);
  if (found === integrity.toLowerCase()) return;
  throw new BioClipError(
    'integrity',
    `${manifest} in ${where} has SHA-256 ${found}, not ${integrity}: it was changed, or published again`,
    manifest,
  );
}

/** Store the manifest for the next load, after its files, so that what is stored is always complete. */
async function store<Info extends Listing>(found: Download<Info>, manifest: Manifest) {
  const {origin, info, text, signature, isStored} = found;
  if (isStored) return;
  if (signature.length) await origin.shelf?.put(signatureOf(manifest), signature);
  await origin.shelf?.put(manifest, text);
  await origin.shelf?.keep([manifest, signatureOf(manifest), ...Object.keys(info.files)]);
}

function parseInfo<Info extends Listing>(
  {where}: Origin,
  {manifest, label, formats, uses}: Kind<Info>,
  text: Uint8Array,
): Info {
  let info: Info;
  try {
    info = JSON.parse(new TextDecoder().decode(text));
  } catch (error) {
    throw new BioClipError(
      'bundle',
      `${manifest} in ${where} is no JSON (${messageOf(error)}): is this the folder of a ${label}?`,
      manifest,
    );
  }
  if (!formats.includes(info?.format)) {
    throw new BioClipError(
      'bundle',
      `${manifest} in ${where} has format ${info?.format}; this version of react-bio-clip reads format ` +
        `${formats.join(' and ')}: make the ${label} again with the pipeline of the same version`,
      manifest,
    );
  }
  for (const name of Object.keys(info.files ?? {})) checkFileName(name, manifest);
  for (const name of uses(info)) {
    if (name === undefined || !Object.hasOwn(info.files ?? {}, name))
      throw new BioClipError('bundle', `${manifest} does not list ${name} among its files`, manifest);
  }
  return info;
}

/** Read files at the same time; the first failure stops the others. */
async function readFiles(
  origin: Origin,
  manifest: Manifest,
  info: Listing,
  names: string[],
  {signal, onProgress}: ReadFolderOptions = {},
): Promise<Files> {
  const onBytes = progressOf(bytesOf(info, names), onProgress);
  const {controller, release} = controllerUnder(signal);
  try {
    const read = names.map((name) => readFile(origin, manifest, info, name, {signal: controller.signal, onBytes}));
    const contents = await Promise.all(read);
    return new Map(names.map((name, i) => [name, contents[i]!]));
  } catch (error) {
    controller.abort(error);
    throwIfAborted(signal);
    throw error;
  } finally {
    release();
  }
}

/** Read one file from the shelf if it is there and whole, else from the folder itself. */
export async function readFile(origin: Origin, manifest: Manifest, info: Listing, name: string, options: ReadOptions) {
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
  if (wrong !== null) throw new BioClipError('damaged', `${name} of ${origin.where} ${wrong}`, name);
  if (counted === 0) options.onBytes?.(bytes.length); // this reader does not report progress
  await origin.shelf?.put(name, bytes);
  return bytes;
}

/** Why the content of a file cannot be used, or null if it can. */
async function damage(manifest: Manifest, info: Listing, name: string, bytes: Uint8Array<ArrayBuffer>) {
  const expected = info.files[name]!;
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
      if (!part)
        throw new BioClipError('bundle', `${info.model.file} needs ${name}, which ${manifest} does not list`, name);
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
  found: Download<Info>,
  manifest: Manifest,
  signal?: AbortSignal,
): Promise<Model> {
  const {info, files} = found;
  if (info.model.file.endsWith('.tflite')) {
    throw new BioClipError(
      'bundle',
      `${info.model.file} is a model for LiteRT, which react-bio-clip/native runs on phones: TensorFlow.js takes the ` +
        'bundle in data/convert/tfjs',
      info.model.file,
    );
  }
  const artifacts = modelArtifacts(manifest, info, files);
  throwIfAborted(signal);
  let model: GraphModel;
  try {
    model = await loadGraphModel({load: async () => artifacts});
  } catch (error) {
    throw new BioClipError(
      'bundle',
      `${info.model.file}: TensorFlow.js refuses the model: ${messageOf(error)}`,
      info.model.file,
    );
  }
  if (signal?.aborted) model.dispose();
  throwIfAborted(signal);
  await store(found, manifest); // only now: this version is usable
  return onTensorFlow(model);
}
