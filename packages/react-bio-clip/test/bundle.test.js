import assert from 'node:assert/strict';
import {test} from 'node:test';

import {answer, logits, openBundle, rankProbabilities, scientificName, softmax} from '../src/bundle.js';

const RANKS = ['kingdom', 'phylum', 'class', 'order', 'family', 'genus', 'species'];
const taxon = (...ranks) => ({id: ranks.join('/'), ranks, common_name: null, rank: 'species'});
const TAXA = [
  taxon('Animalia', 'Chordata', 'Aves', 'Suliformes', 'Sulidae', 'Morus', 'bassanus'),
  taxon('Plantae', null, 'Magnoliopsida', 'Rosales', 'Moraceae', 'Morus', 'alba'),
  taxon('Plantae', null, 'Magnoliopsida', 'Rosales', 'Moraceae', 'Morus', 'nigra'),
  taxon('Plantae', null, 'Magnoliopsida', 'Rosales', 'Moraceae', 'Ficus', null),
];
const bundle = {
  info: {ranks: RANKS, taxa: TAXA, logit_scale: 10},
  text: Float32Array.from([1, 0, 0, 1, 0.6, 0.8, -1, 0]),
};

test('softmax sums to one and survives large logits', () => {
  const p = softmax([1000, 1000, -1000]);
  assert.deepEqual([...p], [0.5, 0.5, 0]);
});

test('logits are scaled dot products', () => {
  const found = logits(bundle, Float32Array.from([0.6, 0.8]));
  [6, 8, 10, -6].forEach((wanted, i) => assert.ok(Math.abs(found[i] - wanted) < 1e-5));
});

test('probabilities are summed up the tree, by path and not by name', () => {
  const best = rankProbabilities(bundle, Float64Array.from([0.4, 0.25, 0.25, 0.1]));
  assert.equal(best.kingdom.name, 'Plantae');
  assert.ok(Math.abs(best.kingdom.probability - 0.6) < 1e-12);
  assert.deepEqual(best.genus.path, TAXA[1].ranks.slice(0, 6)); // not the bird: 0.4 < 0.5
  assert.ok(Math.abs(best.genus.probability - 0.5) < 1e-12);
  assert.equal(best.species.name, 'bassanus');
  assert.equal(best.phylum.name, 'Chordata'); // the only one known
});

test('candidates fall in probability', () => {
  const {candidates} = answer(bundle, Float32Array.from([0.6, 0.8]), 3);
  assert.deepEqual(candidates.map((c) => c.name), ['Morus nigra', 'Morus alba', 'Morus bassanus']);
});

test('names are binomials, or the lowest known name', () => {
  assert.equal(scientificName(TAXA[0]), 'Morus bassanus');
  assert.equal(scientificName(TAXA[3]), 'Ficus');
});

test('a bundle of another format, and an incomplete one, are refused', async () => {
  const reader = (info, bytes = 0) => async (name) =>
    name === 'bundle.json' ? new TextEncoder().encode(JSON.stringify(info)).buffer : new ArrayBuffer(bytes);
  await assert.rejects(openBundle(reader({format: 2})), /format 2/);
  const text = {file: 'taxa.bin', dtype: 'float16', rows: 4, columns: 2};
  const info = {format: 1, taxa: TAXA, embedding: 2, text};
  await assert.rejects(openBundle(reader(info, 14)), /incomplete download/);
});
