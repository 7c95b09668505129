/**
 * A bundle of a few kilobytes that classifies by mean colour, made without TensorFlow: for tests of everything but
 * the numbers of a real model.
 */

import {createHash} from 'node:crypto';
import {mkdir, writeFile} from 'node:fs/promises';
import path from 'node:path';

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

/** Mean over the image, then a matrix: image [-1, SIZE, SIZE, 3] -> embedding [-1, 3]. */
function model(weights) {
  const node = (name, op, input, attr = {}) => ({name, op, input, attr});
  const type = (value) => ({type: value});
  const shape = {shape: {dim: [{size: '-1'}, {size: `${SIZE}`}, {size: `${SIZE}`}, {size: '3'}]}};
  const float = {T: type('DT_FLOAT')};
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

/** {bundle: bundle.json, files: name -> bytes}; `changes` overwrite entries of bundle.json. */
export function makeBundle(changes = {}) {
  const files = {};
  const add = (stem, bytes, suffix) => {
    const name = `${stem}-${sha256(bytes).slice(0, 8)}.${suffix}`;
    files[name] = new Uint8Array(bytes);
    return name;
  };
  const matrix = Float32Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1);
  const weights = add('weights', Buffer.concat([Buffer.from(Int32Array.of(1, 2).buffer), Buffer.from(matrix.buffer)]), 'bin');
  const scale = Float32Array.from(TEXT, () => 1 / 127);
  const rows = Int8Array.from(TEXT.flat(), (value) => Math.round(value * 127));
  const text = add('taxa', Buffer.concat([Buffer.from(scale.buffer), Buffer.from(rows.buffer)]), 'bin');
  const modelFile = add('model', json(model(weights)), 'json');
  const listed = Object.entries(files).map(([name, bytes]) => [name, {bytes: bytes.length, sha256: sha256(bytes)}]);
  const bundle = {
    format: 2,
    preprocess: {size: SIZE, resize: 'shortest', interpolation: 'bicubic', crop: 'center', mean: [0, 0, 0], std: [1, 1, 1]},
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
    files: Object.fromEntries(listed),
    bytes: listed.reduce((sum, [, {bytes}]) => sum + bytes, 0),
    licences: {},
    attribution: [],
    provenance: {},
    ...changes,
  };
  return {bundle, files};
}

/** The same as a reader, as a server or a disk would give it; `replace` overwrites files. */
export function readerOf({bundle, files}, replace = {}) {
  return async (name) => {
    const found = replace[name] ?? (name === 'bundle.json' ? new Uint8Array(json(bundle)) : files[name]);
    if (!found) throw new Error(`${name} is missing`);
    return found;
  };
}

export async function writeBundle(folder, {bundle, files} = makeBundle()) {
  await mkdir(folder, {recursive: true});
  await writeFile(path.join(folder, 'bundle.json'), json(bundle));
  for (const [name, bytes] of Object.entries(files)) await writeFile(path.join(folder, name), bytes);
}

/** A plain image of one colour. */
export function plain([r, g, b], width = 20, height = 14) {
  const data = new Uint8ClampedArray(width * height * 3);
  for (let i = 0; i < data.length; i += 3) data.set([r, g, b], i);
  return {data, width, height};
}
