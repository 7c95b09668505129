/** What only Node has: files, tar shards, an image decoder, the WebAssembly files of TensorFlow.js. */

import {open, readFile} from 'node:fs/promises';
import {createRequire} from 'node:module';
import path from 'node:path';

import '@tensorflow/tfjs-backend-cpu';
import {setThreadsCount, setWasmPaths} from '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import sharp from 'sharp';

/** @typedef {{key: string, file: string, bytes: Uint8Array}} ImageFile */

const IMAGE = /\.(jpe?g|png|webp)$/i;

/** @param {string} folder @returns {import('./bundle.js').Reader} */
export function fileReader(folder) {
  return async (name) => {
    const bytes = await readFile(path.join(folder, name));
    return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  };
}

/** One thread, so that times can be compared. @param {string} name wasm or cpu */
export async function useBackend(name) {
  const wasm = createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm/package.json');
  setWasmPaths(`${path.join(path.dirname(wasm), 'dist')}${path.sep}`);
  setThreadsCount(1);
  if (!(await tf.setBackend(name))) throw new Error(`TensorFlow.js has no backend '${name}'; try wasm or cpu`);
}

/**
 * RGB pixels, upright, as images.py decodes them: colour profiles are ignored, transparent pixels become white.
 * @param {Uint8Array} bytes @returns {Promise<import('./preprocess.js').Pixels>}
 */
export async function decode(bytes) {
  const pipeline = sharp(bytes, {ignoreIcc: true, limitInputPixels: false}).autoOrient().toColourspace('srgb');
  const {data, info} = await pipeline.flatten({background: '#ffffff'}).raw().toBuffer({resolveWithObject: true});
  if (info.channels !== 3) throw new Error(`an image with ${info.channels} channels`);
  return {data, width: info.width, height: info.height};
}

/** @param {string} name */
const stem = (name) => path.basename(name).replace(/\.[^.]*$/, '');

/** @param {string} text a field of a tar header */
const beforeNul = (text) => text.replace(/\0.*$/s, '');

/**
 * The images of a tar, one at a time: memory does not grow with the shard.
 * @param {string} file @returns {AsyncGenerator<ImageFile>}
 */
async function* tarImages(file) {
  const handle = await open(file);
  try {
    const header = Buffer.alloc(512);
    for (let offset = 0; ; ) {
      const {bytesRead} = await handle.read(header, 0, 512, offset);
      if (bytesRead < 512 || header[0] === 0) return;
      const [prefix, last] = [header.toString('utf8', 345, 500), header.toString('utf8', 0, 100)].map(beforeNul);
      const name = prefix ? `${prefix}/${last}` : last;
      const size = parseInt(header.toString('ascii', 124, 136), 8);
      const kind = String.fromCharCode(header[156]);
      if ('xgLK'.includes(kind)) throw new Error(`${file}: names of over 100 bytes (pax or GNU tar) are not supported`);
      const isFile = kind === '0' || kind === '\0';
      if (Number.isNaN(size)) throw new Error(`${file}: damaged tar header at byte ${offset}`);
      if (isFile && IMAGE.test(name)) {
        const bytes = Buffer.alloc(size);
        const body = await handle.read(bytes, 0, size, offset + 512);
        if (body.bytesRead < size) throw new Error(`${file}: ends inside ${name}`);
        yield {key: path.basename(name).split('.')[0], file: name, bytes}; // webdataset: up to the first dot
      }
      offset += 512 + Math.ceil(size / 512) * 512;
    }
  } finally {
    await handle.close();
  }
}

/** @param {string[]} files images and tar shards @returns {AsyncGenerator<ImageFile>} */
export async function* imageFiles(files) {
  for (const file of files) {
    if (file.endsWith('.tar')) yield* tarImages(file);
    else yield {key: stem(file), file, bytes: await readFile(file)};
  }
}
