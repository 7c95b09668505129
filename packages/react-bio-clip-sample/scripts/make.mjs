#!/usr/bin/env node
/** Write index.js from what the pipeline made of the built-in sample: make.mjs [DATA], by default the checkout's data. */

import {readFile, rename, writeFile} from 'node:fs/promises';
import path from 'node:path';
import {fileURLToPath} from 'node:url';

import {decode, imageFiles, loadFolder} from '../../react-bio-clip/dist/core/node.js';
import {moduleOf} from './module.mjs';

const HERE = fileURLToPath(new URL('../', import.meta.url));
const SAMPLE = 'bioclip-lite synthetic sample';

const [data = path.join(HERE, '../../data'), ...more] = process.argv.slice(2);
try {
  if (more.length) throw new Error('usage: make.mjs [DATA]');
  await write(path.join(data, 'convert/tfjs'), path.join(data, 'shard/test-00000.tar'));
} catch (error) {
  console.error(`index.js cannot be made from ${data}: ${error.message}`);
  process.exitCode = 1;
}

async function write(folder, shard) {
  const bundle = JSON.parse(await readFile(path.join(folder, 'bundle.json'), 'utf8'));
  const from = bundle.attribution.map(({name}) => name);
  if (from.join() !== SAMPLE) {
    throw new Error(
      `its model was made from ${from.join(', ')}, not from the built-in sample, and may not be yours to publish`,
    );
  }
  const clip = await loadFolder(folder);
  const photo = await firstNamed(clip, shard);
  clip.dispose();
  const names = Object.keys(bundle.files);
  const contents = await Promise.all(names.map((name) => readFile(path.join(folder, name))));
  const files = Object.fromEntries(names.map((name, i) => [name, contents[i]]));
  const unfinished = path.join(HERE, 'index.js.part');
  await writeFile(unfinished, moduleOf({bundle, files, ...photo}));
  await rename(unfinished, path.join(HERE, 'index.js'));
}

/** The first photograph of the shard that the model names, rightly: keys begin with the species. */
async function firstNamed(clip, shard) {
  for await (const {key, bytes} of imageFiles([shard])) {
    const {answer} = await clip.classify(await decode(bytes));
    const isRight = answer?.rank === 'species' && key.startsWith(answer.name.toLowerCase().replace(' ', '_'));
    if (isRight) return {photo: bytes, shows: answer.name};
  }
  throw new Error(`the model names no photograph of ${shard}`);
}
