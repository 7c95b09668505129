import assert from 'node:assert/strict';
import {test} from 'node:test';

import {logits, readTaxa, softmax} from '../dist/core/taxa.js';
import {answerOf, largest, plantTree, scientificName} from '../dist/core/tree.js';
import {makeBundle, RANKS, TAXA} from './fixture.js';

const {bundle: INFO} = makeBundle();
const answer = (probabilities, options, info = INFO) =>
  answerOf(info, plantTree(info), Float64Array.from(probabilities), options);
const near = (found, wanted) => assert.ok(Math.abs(found - wanted) < 1e-12, `${found} instead of ${wanted}`);

test('softmax sums to one, survives large logits and flattens with temperature', () => {
  assert.deepEqual([...softmax(Float32Array.of(1000, 1000, -1000), 1)], [0.5, 0.5, 0]);
  const [hot] = softmax(Float32Array.of(2, 0), 2);
  near(hot, 1 / (1 + Math.exp(-1)));
});

test('logits are scaled dot products with the int8 rows', () => {
  const bytes = new Uint8Array(2 * 4 + 2 * 2);
  new Float32Array(bytes.buffer, 0, 2).set([0.5, 0.25]);
  new Int8Array(bytes.buffer, 8).set([1, 2, -4, 8]);
  const info = {
    logit_scale: 10,
    embedding: 2,
    taxa: [1, 2],
    text: {rows: 2, columns: 2, dtype: 'int8', file: 'taxa.bin'},
  };
  const shifted = new Uint8Array(bytes.length + 1); // a file need not start at a multiple of 4 bytes
  shifted.set(bytes, 1);
  for (const file of [bytes, shifted.subarray(1)]) {
    const found = logits(info, readTaxa(info, file), Float32Array.of(0.6, 0.8));
    assert.deepEqual(
      [...found].map((v) => v.toFixed(4)),
      ['11.0000', '10.0000'],
    );
  }
  assert.throws(() => readTaxa(info, bytes.subarray(1)), /taxa.bin has 11 bytes for 2 x 2 numbers/);
});

test('probabilities are summed up the tree, by path and not by name', () => {
  const {ranks} = answer([0.4, 0.1, 0.25, 0.25]);
  assert.equal(ranks.kingdom.name, 'Plantae');
  near(ranks.kingdom.probability, 0.6);
  assert.deepEqual(ranks.genus.path, TAXA[2].ranks.slice(0, 6)); // the trees, not the bird: 0.4 < 0.5
  near(ranks.genus.probability, 0.5);
  assert.equal(ranks.species.name, 'Morus bassanus');
  assert.equal(ranks.phylum.name, 'Chordata'); // the only one known
});

test('sums equal those of a plain search over all taxa', () => {
  for (let round = 0; round < 20; round++) {
    const raw = TAXA.map((_, i) => ((round * 7 + i * 13) % 11) + 1);
    const total = raw.reduce((a, b) => a + b);
    const p = raw.map((v) => v / total);
    const {ranks} = answer(p);
    for (const [r, rank] of RANKS.entries()) {
      const slow = new Map();
      TAXA.forEach(({ranks: path}, i) => {
        if (path[r]) slow.set(`${path.slice(0, r + 1)}`, (slow.get(`${path.slice(0, r + 1)}`) ?? 0) + p[i]);
      });
      near(ranks[rank].probability, Math.max(...slow.values()));
    }
  }
});

test('candidates fall in probability; those of a rank are its nodes', () => {
  const {taxa} = answer([0.4, 0.1, 0.3, 0.2], {topK: 3});
  assert.deepEqual(
    taxa.map((c) => c.name),
    ['Morus bassanus', 'Morus alba', 'Morus nigra'],
  );
  assert.deepEqual(taxa[0].commonNames, {en: 'northern gannet', de: 'Basstölpel'});
  assert.equal(taxa[0].id, TAXA[0].id);
  const genera = answer([0.4, 0.1, 0.3, 0.2], {rank: 'genus'}).taxa;
  assert.deepEqual(
    genera.map(({name, rank, id}) => [name, rank, id]),
    [
      ['Morus', 'genus', null],
      ['Morus', 'genus', null],
      ['Ficus', 'genus', TAXA[1].id], // a taxon of the table itself
    ],
  );
  near(genera[0].probability, 0.5);
  assert.deepEqual(genera[2].commonNames, {en: 'figs'});
});

test('the answer is the lowest rank whose best node reaches its threshold', () => {
  const rankOf = (p, options, info) => {
    const {answer: found} = answer(p, options, info);
    return found && [found.rank, found.name];
  };
  assert.deepEqual(rankOf([0, 0, 0.9, 0.1]), ['species', 'Morus alba']); // reached exactly
  assert.deepEqual(rankOf([0, 0, 0.5, 0.5]), ['genus', 'Morus']);
  assert.deepEqual(rankOf([0.1, 0.2, 0.4, 0.3]), ['family', 'Moraceae']);
  assert.deepEqual(rankOf([0.45, 0.2, 0.2, 0.15]), ['kingdom', 'Plantae']);
  const strict = {...INFO, thresholds: {level: 0.99, ranks: {...INFO.thresholds.ranks, kingdom: null}}};
  assert.equal(rankOf([0.45, 0.2, 0.2, 0.15], {}, strict), null); // never this rank
  assert.equal(rankOf([1, 0, 0, 0], {}, {...INFO, thresholds: null}), null);
  assert.deepEqual(rankOf([0.4, 0.1, 0.3, 0.2], {minConfidence: 0.3}), ['species', 'Morus bassanus']);
  assert.deepEqual(rankOf([0, 0, 1, 0], {rank: 'family'}), ['family', 'Moraceae']); // no lower than asked
});

test('taxa that are not told apart are named together, and never below their finest rank', () => {
  // two sisters are never named below the genus, a third one is; a fourth species never below the family
  const above = ['A', 'p', 'c', 'o', 'f'];
  const species = (genus, name, said) => ({
    id: name,
    ranks: [...above, genus, name],
    common_names: {},
    rank: 'species',
    ...said,
  });
  const taxa = [
    species('G', 'x', {finest_rank: 'genus', note: 'needs the spores'}),
    species('G', 'y', {finest_rank: 'genus'}),
    species('G', 'z', {note: 'white spots'}),
    species('H', 'w', {finest_rank: 'family', zero_shot: true}),
  ];
  const thresholds = {level: 0.95, ranks: Object.fromEntries(RANKS.map((rank) => [rank, 0.8]))};
  const info = {...INFO, taxa, thresholds};
  const named = (p, options) => answer(p, options, info);

  const sisters = named([0.5, 0.45, 0.04, 0.01]);
  assert.deepEqual(
    [sisters.answer.rank, sisters.answer.name, sisters.answer.isFinest, sisters.answer.note],
    ['genus', 'G', true, 'needs the spores'],
  );
  near(sisters.answer.probability, 0.99);
  assert.equal(sisters.ranks.species, undefined); // the sisters are more probable than any that may be named
  assert.deepEqual(
    sisters.taxa.map(({name, rank, isFinest, zeroShot}) => [name, rank, isFinest, zeroShot]),
    [
      ['G', 'genus', true, false],
      ['G z', 'species', false, false],
      ['f', 'family', true, false],
    ],
  );
  near(sisters.taxa[0].probability, 0.99); // of all taxa of the genus
  near(sisters.taxa[2].probability, 1);

  const third = named([0.05, 0.05, 0.85, 0.05]);
  assert.deepEqual([third.answer.name, third.answer.isFinest, third.answer.note], ['G z', false, 'white spots']);
  const doubted = named([0.3, 0.25, 0.4, 0.05], {minConfidence: 0.35}); // the third is best, the sisters together more so
  assert.deepEqual([doubted.answer.rank, doubted.answer.note], ['genus', null]);
  const fourth = named([0.02, 0.02, 0.02, 0.94]).answer;
  assert.deepEqual([fourth.rank, fourth.isFinest, fourth.zeroShot], ['family', true, false]); // its relatives have photographs
  assert.equal(named([0.1, 0.1, 0.1, 0.7], {rank: 'genus'}).taxa[0].rank, 'family');
  const genus = named([0, 0, 0, 1], {rank: 'genus', minConfidence: 0.1}).answer;
  assert.equal(genus.rank, 'family');
  assert.equal(named([0.3, 0.2, 0.1, 0.4], {rank: 'order'}).answer.isFinest, false); // could be named further down
});

test('a taxon without photographs is marked, and so is a node that has no other', () => {
  const taxa = TAXA.map((taxon) => (taxon.ranks[0] === 'Animalia' ? {...taxon, zero_shot: true} : taxon));
  const {taxa: found, answer: sure} = answer([0.95, 0.01, 0.02, 0.02], {topK: 2}, {...INFO, taxa});
  assert.deepEqual(
    found.map(({zeroShot}) => zeroShot),
    [true, false],
  );
  assert.equal(sure.zeroShot, true);
  assert.equal(answer([0.95, 0.05, 0, 0], {rank: 'class'}, {...INFO, taxa}).answer.zeroShot, true);
});

test('a rank without a name is passed over by a cap', () => {
  const taxa = [
    {id: 'a', ranks: ['A', 'p', 'c', 'o', null, 'G', 'x'], common_names: {}, rank: 'species', finest_rank: 'family'},
    {id: 'b', ranks: ['B', null, null, null, null, 'H', 'y'], common_names: {}, rank: 'species'},
  ];
  const found = answer([0.95, 0.05], {}, {...INFO, taxa});
  assert.deepEqual([found.answer.rank, found.answer.isFinest, found.taxa[0].rank], ['order', true, 'order']);
});

test('the largest are found in order, the first of equals first', () => {
  const values = Float64Array.of(1, 3, 2, 3, 0, 2);
  assert.deepEqual(largest(values, 4), [1, 3, 2, 5]);
  assert.deepEqual(largest(values, 9), [1, 3, 2, 5, 0, 4]);
});

test('taxa that are not in tree order are refused', () => {
  const taxa = [TAXA[2], TAXA[0], TAXA[3], TAXA[1]];
  assert.throws(() => plantTree({ranks: RANKS, taxa}), /the taxa of kingdom Plantae are not side by side/);
});

test('names are binomials, or the lowest known name', () => {
  assert.equal(scientificName(TAXA[0].ranks), 'Morus bassanus');
  assert.equal(scientificName(TAXA[1].ranks), 'Ficus');
});
