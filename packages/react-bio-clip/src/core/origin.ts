/** Sources of a folder's files, and the cache that stores them for the next load. */

import {BioClipError, controllerUnder, within} from './errors.js';
import type {Bundled, BundledText, Progress, Reader, ReadOptions, Source, TextSource} from './types.js';

/** The file that lists the others of a folder. Its name is fixed; other names change with the content. */
export type Manifest = 'bundle.json' | 'text.json';

/** Files that earlier loads stored; absent without the Cache API (Node, plain http, React Native). */
export interface Shelf {
  get(name: string): Promise<ArrayBuffer | undefined>;
  put(name: string, bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  /** Delete all files but these. */
  keep(names: string[]): Promise<void>;
}

export interface Origin {
  /** The folder in error messages. */
  where: string;
  read: Reader;
  shelf: Shelf | null;
}

/** The file with the signature of a manifest. */
export const signatureOf = (manifest: Manifest) => `${manifest}.sig`;

/** Whether a file has a fixed name, so that its content may be new. */
const isFixed = (name: string) => name.replace(/\.sig$/, '') in CACHES;

/** Cache names. Each manifest has its own: in a folder that holds both, neither deletes the other's files. */
const CACHES: Record<Manifest, string> = {'bundle.json': 'react-bio-clip', 'text.json': 'react-bio-clip-text'};

/** Milliseconds without a byte after which a server is given up. */
const SILENCE = 60_000;

export async function originOf(source: Source | TextSource, manifest: Manifest = 'bundle.json'): Promise<Origin> {
  if (typeof source === 'string' || source instanceof URL) {
    const folder = folderOf(source);
    return {where: folder.base, read: fetchReader(source), shelf: await openShelf(folder, CACHES[manifest])};
  }
  const where = manifest === 'bundle.json' ? 'the bundle' : 'the text encoder';
  return {where, read: typeof source === 'function' ? source : bundledReader(source), shelf: null};
}

/** The address of a folder in its two parts. The query, such as a signature or a version, belongs to each of its files. */
interface Folder {
  base: string;
  query: string;
}

function folderOf(source: string | URL): Folder {
  const {path, query} = partsOf(String(source));
  const folder = path.endsWith('/') ? path : `${path}/`;
  // Relative addresses are relative to the page; Node has no page.
  const page = globalThis.location && (globalThis.document?.baseURI ?? globalThis.location.href);
  return {base: page ? new URL(folder, page).href : folder, query};
}

/** An address without its fragment, which is nothing to a server. */
function partsOf(address: string): {path: string; query: string} {
  const whole = address.split('#')[0]!;
  const start = whole.indexOf('?');
  return start < 0 ? {path: whole, query: ''} : {path: whole.slice(0, start), query: whole.slice(start)};
}

/** The address of a file whose name is put behind `prefix`, before its query. */
export function addressOf(prefix: string, name: string): string {
  const {path, query} = partsOf(prefix);
  return path + name + query;
}

/** A reader for the files of a folder on the web. */
export function fetchReader(url: string | URL): Reader {
  const {base, query} = folderOf(url);
  return (name, options) => fetchFile(base + name + query, name, options);
}

async function fetchFile(url: string, name: string, {signal, onBytes}: ReadOptions = {}): Promise<Uint8Array> {
  const cache = isFixed(name) ? 'no-cache' : 'default';
  const where = partsOf(url).path; // a signature is nobody else's business
  const {controller, release} = controllerUnder(signal);
  const heard: Heard = (work) => within(work, SILENCE, `${where}: nothing arrived for ${SILENCE / 1000} s`, name);
  const failed = (error: unknown, message: string) =>
    signal?.aborted || error instanceof BioClipError ? error : new BioClipError('unreachable', message, name, error);
  try {
    const response = await heard(fetch(url, {signal: controller.signal, cache})).catch((error) => {
      throw failed(error, `${where} cannot be fetched: ${messageOf(error)}`);
    });
    if (!response.ok) throw new BioClipError('unreachable', `${where}: HTTP status ${response.status}`, name);
    return await readBody(response, heard, onBytes).catch((error) => {
      throw failed(error, `${where}: the download stopped (${messageOf(error)})`);
    });
  } finally {
    release();
    controller.abort(); // a server that is silent for too long is not waited for
  }
}

/** Reject if the server stays silent for too long. */
type Heard = <T>(work: Promise<T>) => Promise<T>;

async function readBody(response: Response, heard: Heard, onBytes?: (bytes: number) => void) {
  if (!response.body) {
    const bytes = new Uint8Array(await heard(response.arrayBuffer())); // React Native has no streams
    onBytes?.(bytes.length);
    return bytes;
  }
  const parts: Uint8Array[] = [];
  const reader = response.body.getReader();
  for (let part = await heard(reader.read()); !part.done; part = await heard(reader.read())) {
    parts.push(part.value);
    onBytes?.(part.value.length);
  }
  return concatenate(parts);
}

export function concatenate(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

function bundledReader(source: Bundled | BundledText): Reader {
  const {bundle, text, files} = source as Bundled & BundledText; // or one of the two
  const manifests: Record<Manifest, object> = {'bundle.json': bundle, 'text.json': text};
  return async (name, options) => {
    const manifest = manifests[name as Manifest];
    if (manifest) return new TextEncoder().encode(JSON.stringify(manifest));
    if (isFixed(name) && !(name in manifests)) {
      const parsed =
        'publicKey is not for {bundle, files}, whose manifest was parsed and has other bytes than were signed';
      throw new BioClipError('argument', parsed, name);
    }
    const file = files[name];
    if (file === undefined) throw new BioClipError('unreachable', `${name} is not among the files given`, name);
    return typeof file === 'string' ? fetchFile(file, name, options) : file;
  };
}

/**
 * Files are stored without the query, so that those of yesterday's signature are found: their names and SHA-256 tell
 * which they are. The manifest and its signature, whose names are fixed, keep it: another query may be another bundle.
 */
async function openShelf({base, query}: Folder, name: string): Promise<Shelf | null> {
  let cache: Cache;
  try {
    if (!globalThis.caches) return null;
    cache = await caches.open(name);
  } catch {
    return null; // forbidden by the browser's settings
  }
  const keyOf = (file: string) => new URL(base + file + (isFixed(file) ? query : '')).href;
  return {
    get: async (file) => (await cache.match(keyOf(file)))?.arrayBuffer(),
    // A full disk prevents offline use, not the answer.
    put: (file, bytes) => cache.put(keyOf(file), new Response(bytes)).catch(() => {}),
    keep: async (files) => {
      const urls = new Set(files.map(keyOf));
      for (const {url} of await cache.keys()) {
        const inFolder = url.startsWith(base) && !partsOf(url).path.slice(base.length).includes('/');
        if (inFolder && !urls.has(url)) await cache.delete(url);
      }
    },
  };
}

export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Sum the bytes of several downloads for one progress report. */
export function progressOf(total: number, onProgress?: (progress: Progress) => void): (bytes: number) => void {
  let loaded = 0;
  return (bytes) => {
    loaded += bytes;
    onProgress?.({loaded, total});
  };
}
