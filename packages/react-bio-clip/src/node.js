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
 * sRGB pixels, upright. Colour profiles are ignored, as Pillow does: the models were trained on the stored values.
 * @param {Uint8Array} bytes @returns {Promise<import('./preprocess.js').Pixels>}
 */
export async function decode(bytes) {
  const pipeline = sharp(bytes, {ignoreIcc: true, limitInputPixels: false}).autoOrient().toColourspace('srgb');
  const {data, info} = await pipeline.removeAlpha().raw().toBuffer({resolveWithObject: true});
  if (info.channels !== 3) throw new Error(`an image with ${info.channels} channels`);
  return {data, width: info.width, height: info.height};
}

/** @param {string} name */
const stem = (name) => path.basename(name).replace(/\.[^.]*$/, '');

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
      const name = header.toString('utf8', 0, 100).replace(/\0.*$/s, '');
      const size = parseInt(header.toString('ascii', 124, 136), 8);
      const isFile = header[156] === 0x30 || header[156] === 0;
      if (Number.isNaN(size)) throw new Error(`${file}: damaged tar header at byte ${offset}`);
      if (isFile && IMAGE.test(name)) {
        const bytes = Buffer.alloc(size);
        const body = await handle.read(bytes, 0, size, offset + 512);
        if (body.bytesRead < size) throw new Error(`${file}: ends inside ${name}`);
        yield {key: stem(name), file: name, bytes};
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
