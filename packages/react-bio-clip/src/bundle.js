/** A bioclip-lite bundle: model.json and its weights, bundle.json, taxa.bin. */

import {loadGraphModel} from '@tensorflow/tfjs-converter';
import * as tf from '@tensorflow/tfjs-core';

import {preprocessImage} from './preprocess.js';

/**
 * @typedef {import('./preprocess.js').Pixels} Pixels
 * @typedef {(name: string) => Promise<ArrayBuffer>} Reader  the bytes of one file of the bundle
 * @typedef {{id: string, ranks: (string | null)[], common_name: string | null, rank: string}} Taxon
 * @typedef {{format: number, preprocess: import('./preprocess.js').Preprocess, logit_scale: number, embedding: number,
 *   ranks: string[], taxa: Taxon[], text: {file: string, dtype: 'float16' | 'float32', rows: number, columns: number},
 *   provenance: Object<string, string>}} BundleInfo  bundle.json
 * @typedef {import('@tensorflow/tfjs-converter').GraphModel} GraphModel
 * @typedef {{info: BundleInfo, model: GraphModel, text: Float32Array, bytes: number}} Bundle
 * @typedef {{taxon: Taxon, name: string, probability: number}} Candidate
 * @typedef {{name: string, path: (string | null)[], probability: number}} Node
 */

/** @param {string} url folder of the bundle @returns {Reader} */
export function fetchReader(url) {
  const base = url.endsWith('/') ? url : `${url}/`;
  return async (name) => {
    const response = await fetch(base + name);
    if (!response.ok) throw new Error(`${base}${name}: HTTP status ${response.status}`);
    return response.arrayBuffer();
  };
}

/** @param {Uint16Array} halves IEEE 754 binary16 */
function decodeFloat16(halves) {
  return Float32Array.from(halves, (h) => {
    const sign = h & 0x8000 ? -1 : 1;
    const exponent = (h >> 10) & 0x1f;
    const fraction = h & 0x3ff;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}

/** @param {ArrayBuffer} bytes */
const parse = (bytes) => JSON.parse(new TextDecoder().decode(bytes));

/**
 * The model's artifacts, as tf.io handlers give them.
 * @param {Reader} read
 * @returns {Promise<{artifacts: import('@tensorflow/tfjs-core').io.ModelArtifacts, bytes: number}>}
 */
export async function readModel(read) {
  const text = await read('model.json');
  const json = parse(text);
  const paths = json.weightsManifest.flatMap((/** @type {any} */ group) => group.paths);
  const parts = await Promise.all(paths.map(read));
  const weightData = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  parts.reduce((offset, part) => (weightData.set(new Uint8Array(part), offset), offset + part.byteLength), 0);
  const artifacts = {
    modelTopology: json.modelTopology,
    weightSpecs: json.weightsManifest.flatMap((/** @type {any} */ group) => group.weights),
    weightData: weightData.buffer,
    format: json.format,
    signature: json.signature,
  };
  return {artifacts, bytes: text.byteLength + weightData.byteLength};
}

/**
 * Load a bundle on the current TensorFlow.js backend.
 * @param {Reader} read @returns {Promise<Bundle>}
 */
export async function openBundle(read) {
  const description = await read('bundle.json');
  /** @type {BundleInfo} */
  const info = parse(description);
  if (info.format !== 1) {
    throw new Error(`bundle.json has format ${info.format}; this version of react-bio-clip reads format 1`);
  }
  const {rows, columns, dtype, file} = info.text;
  const stored = await read(file);
  const text = dtype === 'float16' ? decodeFloat16(new Uint16Array(stored)) : new Float32Array(stored);
  if (text.length !== rows * columns || rows !== info.taxa.length || columns !== info.embedding) {
    throw new Error(`${file} has ${text.length} numbers, bundle.json says ${rows} x ${columns}: incomplete download?`);
  }
  const {artifacts, bytes} = await readModel(read);
  const model = await loadGraphModel({load: async () => artifacts});
  return {info, model, text, bytes: bytes + description.byteLength + stored.byteLength};
}

/**
 * The model alone.
 * @param {Bundle} bundle @param {Float32Array} input one preprocessed image, or several one after another
 * @returns {Promise<Float32Array>} un-normalised embeddings, row by row
 */
export async function predict({info, model}, input) {
  const {size} = info.preprocess;
  const output = tf.tidy(() => {
    const images = tf.tensor4d(input, [input.length / (size * size * 3), size, size, 3]);
    return /** @type {import('@tensorflow/tfjs-core').Tensor} */ (model.predict(images));
  });
  const values = /** @type {Float32Array} */ (await output.data());
  output.dispose();
  return values;
}

/**
 * @param {Bundle} bundle @param {Pixels} image
 * @returns {Promise<Float32Array>} the unit embedding, of length bundle.info.embedding
 */
export async function embed(bundle, image) {
  const vector = await predict(bundle, preprocessImage(image, bundle.info.preprocess));
  const norm = Math.sqrt(vector.reduce((sum, v) => sum + v * v, 0));
  return vector.map((v) => v / norm);
}

/** @param {Bundle} bundle @param {Float32Array} embedding unit @returns {Float32Array} one logit per taxon */
export function logits({info, text}, embedding) {
  const columns = embedding.length;
  return Float32Array.from({length: info.taxa.length}, (_, row) => {
    let dot = 0;
    for (let i = 0; i < columns; i++) dot += text[row * columns + i] * embedding[i];
    return info.logit_scale * dot;
  });
}

/** @param {ArrayLike<number>} values @returns {Float64Array} */
export function softmax(values) {
  const logitsArray = Float64Array.from(values);
  const top = logitsArray.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = logitsArray.map((v) => Math.exp(v - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((v) => v / sum);
}

/**
 * The most probable node of each rank: probabilities of the taxa, summed up the tree. A rank that no taxon has a name
 * for is absent. Each rank is judged alone, so the best genus need not hold the best species.
 * @param {Bundle} bundle @param {Float64Array} probabilities of the taxa
 * @returns {Object<string, Node>}
 */
export function rankProbabilities({info}, probabilities) {
  /** @type {Object<string, Node>} */
  const best = {};
  info.ranks.forEach((rank, r) => {
    /** @type {Map<string, Node>} */
    const nodes = new Map();
    info.taxa.forEach((taxon, i) => {
      const name = taxon.ranks[r];
      if (!name) return;
      const path = taxon.ranks.slice(0, r + 1);
      const key = JSON.stringify(path);
      const node = nodes.get(key) ?? {name, path, probability: 0};
      node.probability += probabilities[i];
      nodes.set(key, node);
    });
    for (const node of nodes.values()) if (!best[rank] || node.probability > best[rank].probability) best[rank] = node;
  });
  return best;
}

/** "Genus epithet" for a species, else the lowest known name. @param {Taxon} taxon */
export function scientificName({ranks}) {
  if (ranks[6] && ranks[5]) return `${ranks[5]} ${ranks[6]}`;
  return ranks.findLast((name) => name) ?? '';
}

/**
 * @param {Bundle} bundle @param {Float32Array} embedding unit @param {number} [top] number of candidates
 * @returns {{candidates: Candidate[], ranks: Object<string, Node>}} candidates by falling probability
 */
export function answer(bundle, embedding, top = 5) {
  const probabilities = softmax(logits(bundle, embedding));
  const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  const candidates = order.slice(0, top).map((i) => {
    const taxon = bundle.info.taxa[i];
    return {taxon, name: scientificName(taxon), probability: probabilities[i]};
  });
  return {candidates, ranks: rankProbabilities(bundle, probabilities)};
}

/**
 * Pixels in, taxa out.
 * @param {Bundle} bundle @param {Pixels} image @param {number} [top]
 */
export async function classify(bundle, image, top = 5) {
  return answer(bundle, await embed(bundle, image), top);
}
