/** Parts for Node alone: files, tar shards, an image decoder, the WebAssembly files of TensorFlow.js. */

import {open, readFile} from 'node:fs/promises';
import {createRequire} from 'node:module';
import path from 'node:path';

import {startBackend, wasmFiles} from './backend.js';
import {openBundle, type Bundle} from './bundle.js';
import {clipOf} from './clip.js';
import {BioClipError} from './errors.js';
import {messageOf, type Origin} from './origin.js';
import type {BioClip, LoadOptions, Pixels} from './types.js';

export interface ImageFile {
  key: string;
  file: string;
  bytes: Uint8Array;
}

const IMAGE = /\.(jpe?g|png|webp)$/i;

/** An origin for a folder on disk. */
export function folderOrigin(folder: string): Origin {
  const read = async (name: string) => {
    try {
      return await readFile(path.join(folder, name));
    } catch (error) {
      throw new BioClipError(
        'unreachable',
        `${path.join(folder, name)} cannot be read: ${(error as Error).message}`,
        name,
        error,
      );
    }
  };
  return {where: folder, read, shelf: null};
}

/** Set the backend `name`; WebAssembly has one thread in Node. */
export async function startNodeBackend(name: string): Promise<void> {
  if (name === 'cpu') await import('@tensorflow/tfjs-backend-cpu');
  const wasm = createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm/package.json');
  await startBackend({backend: name, wasmPaths: wasmFiles((file) => path.join(path.dirname(wasm), 'dist', file))});
}

/** Load the bundle in a folder, for callers that need its parts. */
export async function openFolder(folder: string, backend = 'wasm'): Promise<Bundle> {
  await startNodeBackend(backend);
  return openBundle(folderOrigin(folder));
}

/** Load a bundle from a folder on disk, as `loadBioClip` does from an address. */
export async function loadFolder(folder: string, {backend = 'wasm', ...options}: LoadOptions = {}): Promise<BioClip> {
  await startNodeBackend(backend);
  return clipOf(await openBundle(folderOrigin(folder), options));
}

/** The image decoder: not every application that classifies decodes files. */
async function importSharp() {
  try {
    return (await import('sharp')).default;
  } catch (error) {
    const missing = `sharp, which decodes image files, cannot be imported: npm install sharp (${messageOf(error)})`;
    throw new BioClipError('environment', missing, null, error);
  }
}

/** Decode to upright RGB pixels as photographs/images.py does: ignore colour profiles, paint transparency white. */
export async function decode(bytes: Uint8Array): Promise<Pixels> {
  const sharp = await importSharp();
  const pipeline = sharp(bytes, {ignoreIcc: true, limitInputPixels: false}).autoOrient().toColourspace('srgb');
  const {data, info} = await pipeline.flatten({background: '#ffffff'}).raw().toBuffer({resolveWithObject: true});
  if (info.channels !== 3) throw new BioClipError('image', `the image has ${info.channels} channels, not 3`);
  return {data, width: info.width, height: info.height};
}

const stem = (name: string) => path.basename(name).replace(/\.[^.]*$/, '');

/** Read a field of a tar header. */
const beforeNul = (text: string) => text.replace(/\0.*$/s, '');

/** Yield the images of a tar one at a time: memory does not grow with the shard. */
async function* tarImages(file: string): AsyncGenerator<ImageFile> {
  const handle = await open(file);
  try {
    const header = Buffer.alloc(512);
    for (let offset = 0; ; ) {
      const {bytesRead} = await handle.read(header, 0, 512, offset);
      if (bytesRead < 512 || header[0] === 0) return;
      const [prefix, last] = [header.toString('utf8', 345, 500), header.toString('utf8', 0, 100)].map(beforeNul) as [
        string,
        string,
      ];
      const name = prefix ? `${prefix}/${last}` : last;
      const size = parseInt(header.toString('ascii', 124, 136), 8);
      const kind = String.fromCharCode(header[156]!);
      if ('xgLK'.includes(kind)) throw new Error(`${file}: names of over 100 bytes (pax or GNU tar) are not supported`);
      const isFile = kind === '0' || kind === '\0';
      if (Number.isNaN(size)) throw new Error(`${file}: damaged tar header at byte ${offset}`);
      if (isFile && IMAGE.test(name)) {
        const bytes = Buffer.alloc(size);
        const body = await handle.read(bytes, 0, size, offset + 512);
        if (body.bytesRead < size) throw new Error(`${file}: ends inside ${name}`);
        yield {key: path.basename(name).split('.')[0]!, file: name, bytes}; // webdataset: up to the first dot
      }
      offset += 512 + Math.ceil(size / 512) * 512;
    }
  } finally {
    await handle.close();
  }
}

/** Yield the images of image files and tar shards. */
export async function* imageFiles(files: string[]): AsyncGenerator<ImageFile> {
  for (const file of files) {
    if (file.endsWith('.tar')) yield* tarImages(file);
    else yield {key: stem(file), file, bytes: await readFile(file)};
  }
}
