/**
 * A bundle of a few kilobytes that classifies by mean colour, and a text encoder that goes with it, made without
 * TensorFlow: for tests of everything but the numbers of real models.
 */

import assert from 'node:assert/strict';
import {createHash} from 'node:crypto';
import {mkdir, writeFile} from 'node:fs/promises';
import path from 'node:path';

import * as tf from '@tensorflow/tfjs-core';

export const RANKS = ['kingdom', 'phylum', 'class', 'order', 'family', 'genus', 'species'];
export const SIZE = 8;

const taxon = (ranks, rank = 'species', common_names = {}) => ({
  id: createHash('sha256').update(JSON.stringify(ranks)).digest('hex').slice(0, 16),
  ranks,
  common_names,
  rank,
});

/** In tree order; one genus of the table has no species, one name (Morus) is a bird's and a tree's. */
export const TAXA = [
  taxon(['Animalia', 'Chordata', 'Aves', 'Suliformes', 'Sulidae', 'Morus', 'bassanus'], 'species', {
    en: 'northern gannet',
    de: 'Basstölpel',
  }),
  taxon(['Plantae', null, 'Magnoliopsida', 'Rosales', 'Moraceae', 'Ficus', null], 'genus', {en: 'figs'}),
  taxon(['Plantae', null, 'Magnoliopsida', 'Rosales', 'Moraceae', 'Morus', 'alba'], 'species', {en: 'white mulberry'}),
  taxon(['Plantae', null, 'Magnoliopsida', 'Rosales', 'Moraceae', 'Morus', 'nigra']),
];

/** Unit vectors of the taxa: red, blue, green, yellow-green. */
const TEXT = [
  [1, 0, 0],
  [0, 0, 1],
  [0, 1, 0],
  [0.6, 0.8, 0],
];

const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');
const json = (value) => Buffer.from(JSON.stringify(value));

const node = (name, op, input, attr = {}) => ({name, op, input, attr});
const type = (value) => ({type: value});
const float = {T: type('DT_FLOAT')};

/** Mean over the image, then a matrix: image [-1, SIZE, SIZE, 3] -> embedding [-1, 3]. */
function model(weights) {
  const shape = {shape: {dim: [{size: '-1'}, {size: `${SIZE}`}, {size: `${SIZE}`}, {size: '3'}]}};
  return {
    format: 'graph-model',
    modelTopology: {
      node: [
        node('image', 'Placeholder', [], {dtype: type('DT_FLOAT'), shape}),
        node('axes', 'Const', [], {dtype: type('DT_INT32')}),
        node('matrix', 'Const', [], {dtype: type('DT_FLOAT')}),
        node('mean', 'Mean', ['image', 'axes'], {...float, Tidx: type('DT_INT32'), keep_dims: {b: false}}),
        node('product', 'MatMul', ['mean', 'matrix'], {...float, transpose_a: {b: false}, transpose_b: {b: false}}),
        node('Identity', 'Identity', ['product'], float),
      ],
      versions: {producer: 1},
    },
    signature: {
      inputs: {image: {name: 'image:0', dtype: 'DT_FLOAT', tensorShape: shape.shape}},
      outputs: {embedding: {name: 'Identity:0', dtype: 'DT_FLOAT'}},
    },
    weightsManifest: [
      {
        paths: [weights],
        weights: [
          {name: 'axes', shape: [2], dtype: 'int32'},
          {name: 'matrix', shape: [3, 3], dtype: 'float32'},
        ],
      },
    ],
  };
}

/** Files with their hash in their name; `listed` is what a manifest says of them. */
function shop() {
  const files = {};
  return {
    files,
    add(stem, bytes, suffix) {
      const name = `${stem}-${sha256(bytes).slice(0, 8)}.${suffix}`;
      files[name] = new Uint8Array(bytes);
      return name;
    },
    listed() {
      const found = Object.entries(files).map(([name, bytes]) => [name, {bytes: bytes.length, sha256: sha256(bytes)}]);
      return {files: Object.fromEntries(found), bytes: found.reduce((sum, [, {bytes}]) => sum + bytes, 0)};
    },
  };
}

/** {bundle: bundle.json, files: name -> bytes}; `changes` overwrite entries of bundle.json. */
export function makeBundle(changes = {}) {
  const {files, add, listed} = shop();
  const matrix = Float32Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1);
  const weights = add(
    'weights',
    Buffer.concat([Buffer.from(Int32Array.of(1, 2).buffer), Buffer.from(matrix.buffer)]),
    'bin',
  );
  const scale = Float32Array.from(TEXT, () => 1 / 127);
  const rows = Int8Array.from(TEXT.flat(), (value) => Math.round(value * 127));
  const text = add('taxa', Buffer.concat([Buffer.from(scale.buffer), Buffer.from(rows.buffer)]), 'bin');
  const modelFile = add('model', json(model(weights)), 'json');
  const bundle = {
    format: 2,
    preprocess: {
      size: SIZE,
      resize: 'shortest',
      interpolation: 'bicubic',
      crop: 'center',
      mean: [0, 0, 0],
      std: [1, 1, 1],
    },
    embedding: 3,
    logit_scale: 10,
    temperature: 1,
    thresholds: {
      level: 0.95,
      ranks: {kingdom: 0.5, phylum: null, class: 0.6, order: 0.6, family: 0.7, genus: 0.8, species: 0.9},
    },
    ranks: RANKS,
    languages: ['en', 'de'],
    taxa: TAXA,
    text: {file: text, dtype: 'int8', rows: TEXT.length, columns: 3, prompt: 'plain'},
    model: {file: modelFile, nodes: 6, operations: {Mean: 1, MatMul: 1}, macs: 9, parameters: 9},
    ...listed(),
    licences: {},
    attribution: [],
    provenance: {teacher_identity: 'tiny'},
    ...changes,
  };
  return {bundle, files};
}

/** The same with its model for LiteRT, which tflite.js stands in for: {made: a bundle, name: the file of its model}. */
export function makeLitert() {
  const {bundle, files} = makeBundle();
  const {[bundle.model.file]: _, ...others} = files;
  const {[bundle.model.file]: __, ...listed} = bundle.files;
  const name = 'model-0a1b2c3d.tflite';
  const content = new TextEncoder().encode('stands for a model');
  const made = {
    files: {...others, [name]: content},
    bundle: {
      ...bundle,
      model: {file: name},
      files: {...listed, [name]: {bytes: content.length, sha256: sha256(content)}},
    },
  };
  return {made, name};
}

/** The same bundle in parts: the animal, which is a clade of its own, and the plants, whose part is `part`. */
export function makeParts(chosen) {
  const {bundle, files} = makeBundle();
  const whole = files[bundle.text.file];
  const [scales, rows] = [whole.subarray(0, 4 * TEXT.length), whole.subarray(4 * TEXT.length)];
  const plants = Buffer.concat([scales.subarray(4), rows.subarray(3), json(TAXA.slice(1))]);
  const path = ['Plantae', null, 'Magnoliopsida', 'Rosales', 'Moraceae', null, null];
  const coarse = Buffer.concat([scales.subarray(0, 8), rows.subarray(0, 3), Buffer.from([40, 90, 50])]);
  const {files: made, add, listed} = shop();
  for (const name of Object.keys(files)) if (name !== bundle.text.file) made[name] = files[name];
  const file = add('taxa', coarse, 'bin');
  const part = add('part', plants, 'bin');
  const parts = {chosen, taxa: 4, zero_shot: 0, files: [null, {file: part, rows: 3}]};
  const text = {...bundle.text, file, rows: 2, parts};
  const taxa = [TAXA[0], {...taxon(path, 'family'), stands_for: 3}];
  return {bundle: {...bundle, format: 3, taxa, text, ...listed()}, files: made, part};
}

/** Of the tiny text encoder: tokens 512 to 516; 517 and 518 are the start and the end. */
export const MERGES = ['a b', 'b c</w>', 'ab c</w>', 'ab ab', 'l l</w>'];
export const CONTEXT = 6;
const WIDTH = 4;

/** Each place plus the mean over all places, then a matrix: places [1, CONTEXT, 1, WIDTH] -> [1, CONTEXT, 1, 3]. */
function textModel(weights) {
  const shape = {shape: {dim: ['1', `${CONTEXT}`, '1', `${WIDTH}`].map((size) => ({size}))}};
  const ones = {list: {i: ['1', '1', '1', '1']}};
  const convolution = {
    ...float,
    strides: ones,
    dilations: ones,
    padding: {s: btoa('SAME')},
    data_format: {s: btoa('NHWC')},
  };
  return {
    format: 'graph-model',
    modelTopology: {
      node: [
        node('places', 'Placeholder', [], {dtype: type('DT_FLOAT'), ...shape}),
        node('axes', 'Const', [], {dtype: type('DT_INT32')}),
        node('matrix', 'Const', [], {dtype: type('DT_FLOAT')}),
        node('mean', 'Mean', ['places', 'axes'], {...float, Tidx: type('DT_INT32'), keep_dims: {b: true}}),
        node('sum', 'AddV2', ['places', 'mean'], float),
        node('Identity', 'Conv2D', ['sum', 'matrix'], convolution),
      ],
      versions: {producer: 1},
    },
    signature: {
      inputs: {places: {name: 'places:0', dtype: 'DT_FLOAT', tensorShape: shape.shape}},
      outputs: {embeddings: {name: 'Identity:0', dtype: 'DT_FLOAT'}},
    },
    weightsManifest: [
      {
        paths: [weights],
        weights: [
          {name: 'axes', shape: [1], dtype: 'int32'},
          {name: 'matrix', shape: [1, 1, WIDTH, 3], dtype: 'float32'},
        ],
      },
    ],
  };
}

/**
 * {text: text.json, files: name -> bytes, embed: tokens -> the embedding that is expected}; `changes` overwrite entries
 * of text.json.
 */
export function makeText(changes = {}, {hides = false} = {}) {
  const {files, add, listed} = shop();
  const size = 512 + MERGES.length + 2;
  const width = hides ? WIDTH - 1 : WIDTH; // the model takes a further number
  const scale = Float32Array.from({length: size}, (_, i) => (1 + (i % 3)) / 256);
  const rows = Int8Array.from({length: size * width}, (_, i) => ((i * 89) % 255) - 127);
  const positions = Float32Array.from({length: CONTEXT * width}, (_, i) => ((i * 5) % 11) / 8);
  const matrix = Float32Array.of(1, 0, 0.5, 0, 1, -0.5, 0.25, 0, 1, -1, 0.5, 0);
  const table = Buffer.concat([Buffer.from(scale.buffer), Buffer.from(rows.buffer)]);
  const tokens = [table.subarray(0, 3001), table.subarray(3001)].map((part, i) => add(`tokens-${i}`, part, 'bin'));
  const axes = Buffer.from(Int32Array.of(1).buffer);
  const weights = add('group1-shard1of1', Buffer.concat([axes, Buffer.from(matrix.buffer)]), 'bin');
  const text = {
    format: 1,
    model: {
      file: add('model', json(textModel(weights)), 'json'),
      nodes: 6,
      operations: {Conv2D: 1},
      macs: 72,
      parameters: 12,
    },
    tokens: {files: tokens, rows: size, columns: width, dtype: 'int8'},
    positions: {file: add('positions', Buffer.from(positions.buffer), 'bin')},
    merges: {file: add('merges', Buffer.from(MERGES.map((line) => `${line}\n`).join('')), 'txt')},
    context: CONTEXT,
    ...(hides && {hides_padding: true}),
    embedding: 3,
    teacher_identity: 'tiny',
    licences: {},
    provenance: {},
    ...listed(),
    ...changes,
  };
  const embed = (row) => {
    const end = row.indexOf(size - 1);
    const place = (i, c) =>
      c < width ? scale[row[i]] * rows[row[i] * width + c] + positions[i * width + c] : Number(i <= end);
    const sum = Array.from(
      {length: WIDTH},
      (_, c) => place(end, c) + row.reduce((all, __, i) => all + place(i, c), 0) / CONTEXT,
    );
    const vector = [0, 1, 2].map((d) => sum.reduce((all, value, c) => all + value * matrix[c * 3 + d], 0));
    return vector.map((value) => value / Math.hypot(...vector));
  };
  return {text, files, embed};
}

/** The same as a reader, as a server or a disk would give it; `replace` overwrites files. */
export function readerOf({bundle, text, files}, replace = {}) {
  const manifest = {'bundle.json': bundle, 'text.json': text};
  return async (name) => {
    const found = replace[name] ?? (manifest[name] ? new Uint8Array(json(manifest[name])) : files[name]);
    if (!found) throw new Error(`${name} is missing`);
    return found;
  };
}

/** Loading is cancelled before it begins, and while it waits for a file after the manifest; no tensor is left. */
export async function assertCancellable(load, read, manifest) {
  const before = tf.memory().numTensors;
  await assert.rejects(load({signal: AbortSignal.abort()}), {name: 'AbortError'});
  const stop = new AbortController();
  const never = (name, {signal}) =>
    name === manifest
      ? read(name)
      : new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  const loading = load({signal: stop.signal}, never);
  setTimeout(() => stop.abort(), 20);
  await assert.rejects(loading, {name: 'AbortError'});
  assert.equal(tf.memory().numTensors, before);
}

export async function writeBundle(folder, {bundle, text, files} = makeBundle()) {
  await mkdir(folder, {recursive: true});
  await writeFile(path.join(folder, text ? 'text.json' : 'bundle.json'), json(text ?? bundle));
  for (const [name, bytes] of Object.entries(files)) await writeFile(path.join(folder, name), bytes);
}

/** A plain image of one colour. */
export function plain([r, g, b], width = 20, height = 14) {
  const data = new Uint8ClampedArray(width * height * 3);
  for (let i = 0; i < data.length; i += 3) data.set([r, g, b], i);
  return {data, width, height};
}
