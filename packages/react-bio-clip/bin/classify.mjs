#!/usr/bin/env node
/** Classify image files and WebDataset shards with a bundle; see ../README.md. */

import {createWriteStream} from 'node:fs';
import {writeFile} from 'node:fs/promises';
import {finished} from 'node:stream/promises';
import {parseArgs} from 'node:util';

import {answer, embed, logits, openBundle, predict} from '../src/bundle.js';
import {decode, fileReader, imageFiles, useBackend} from '../src/node.js';
import {preprocessImage} from '../src/preprocess.js';

const OPTIONS = '[--top N] [--raw PREFIX] [--latency RUNS] [--backend NAME]';
const USAGE = `usage: classify.mjs BUNDLE (IMAGE | SHARD.tar)... ${OPTIONS}`;
const WARM_UP = 5;

/** @param {number[]} times */
const median = (times) => [...times].sort((a, b) => a - b)[times.length >> 1];

/** @param {number} runs @param {() => unknown} work @returns {Promise<number[]>} milliseconds */
async function time(runs, work) {
  const times = [];
  for (let i = 0; i < runs; i++) {
    const start = performance.now();
    await work();
    times.push(performance.now() - start);
  }
  return times;
}

/**
 * @param {import('../src/bundle.js').Bundle} bundle @param {import('../src/preprocess.js').Pixels} image
 * @param {number} runs
 */
async function measureLatency(bundle, image, runs) {
  const input = preprocessImage(image, bundle.info.preprocess);
  await time(WARM_UP, () => predict(bundle, input));
  const model = await time(runs, () => predict(bundle, input));
  const preprocess = await time(runs, () => preprocessImage(image, bundle.info.preprocess));
  return {median: median(model), min: Math.min(...model), preprocess: median(preprocess), runs};
}

/** @param {string} key @param {string} file @param {ReturnType<typeof answer>} found */
function line(key, file, {candidates, ranks}) {
  const [{taxon, name, probability}] = candidates;
  const best = Object.entries(ranks).map(([rank, node]) => [rank, {name: node.name, probability: node.probability}]);
  const top = candidates.map((c) => ({taxon_id: c.taxon.id, name: c.name, probability: c.probability}));
  const {id, rank, common_name} = taxon;
  return {key, file, taxon_id: id, name, rank, common_name, probability, ranks: Object.fromEntries(best), top};
}

/** @param {import('node:fs').WriteStream} stream @param {Float32Array} row */
async function writeRow(stream, row) {
  const bytes = Buffer.from(row.buffer, row.byteOffset, row.byteLength);
  if (!stream.write(bytes)) await new Promise((resolve) => stream.once('drain', resolve));
}

async function main() {
  const {values, positionals} = parseArgs({
    allowPositionals: true,
    options: {
      top: {type: 'string', default: '1'},
      raw: {type: 'string'},
      latency: {type: 'string', default: '0'},
      backend: {type: 'string', default: 'wasm'},
    },
  });
  const [folder, ...files] = positionals;
  if (!files.length) throw new Error(USAGE);
  const [top, runs] = [Number(values.top), Number(values.latency)];
  if (!(Number.isInteger(top) && top > 0 && Number.isInteger(runs) && runs >= 0)) throw new Error(USAGE);

  await useBackend(values.backend);
  const bundle = await openBundle(fileReader(folder));
  const streams = values.raw
    ? {
        embeddings: createWriteStream(`${values.raw}.embeddings.f32`),
        logits: createWriteStream(`${values.raw}.logits.f32`),
      }
    : null;
  const keys = [];
  let latency = null;
  for await (const {key, file, bytes} of imageFiles(files)) {
    const image = await decode(bytes).catch((error) => {
      throw new Error(`${file}: cannot be decoded as an image (${error.message})`);
    });
    if (runs && !latency) latency = await measureLatency(bundle, image, runs);
    const embedding = await embed(bundle, image);
    if (streams) {
      await writeRow(streams.embeddings, embedding);
      await writeRow(streams.logits, logits(bundle, embedding));
    } else {
      console.log(JSON.stringify(line(key, file, answer(bundle, embedding, top))));
    }
    keys.push(key);
  }
  if (!keys.length) throw new Error(`no image in ${files.join(', ')}`);
  const report = {
    keys,
    rows: keys.length,
    embedding: bundle.info.embedding,
    taxa: bundle.info.taxa.length,
    backend: values.backend,
    latency_ms: latency,
    bytes: bundle.bytes,
  };
  if (streams) {
    for (const stream of Object.values(streams)) await finished(stream.end());
    await writeFile(`${values.raw}.json`, `${JSON.stringify(report)}\n`); // last: it says that the others are complete
  } else if (latency) {
    console.error(`latency on ${values.backend}: ${latency.median.toFixed(2)} ms (median of ${runs})`);
  }
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
