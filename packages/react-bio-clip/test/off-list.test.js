import assert from 'node:assert/strict';
import {test} from 'node:test';

import {answerFor} from '../dist/core/off-list.js';
import {softmax} from '../dist/core/taxa.js';
import {answerOf, plantTree} from '../dist/core/tree.js';
import {makeBundle, RANKS} from './fixture.js';

const each = (value) => Object.fromEntries(RANKS.map((rank) => [rank, value]));
/** The odds of the list are 1 at a logit of 5, and rise by e for each; at the species at 6. */
const OFF_LIST = {
  ...{share: 0.2, level: 0.95, confidence: 0.9},
  known: {...each([1, -5]), species: [1, -6]},
  ranks: {...each(0.8), phylum: null},
};
const {bundle: INFO} = makeBundle({off_list: OFF_LIST});
const TREE = plantTree(INFO);
const asked = (logits, options = {}, info = INFO) => {
  const scores = Float32Array.from(logits);
  return answerFor(info, TREE, softmax(scores, info.temperature), scores, options);
};

test('without a word answers are those of the list, and say how probable the list is', () => {
  for (const logits of [
    [9, 1, 0, 0],
    [3, 0, 1, 1],
  ]) {
    const plain = answerOf(INFO, TREE, softmax(Float32Array.from(logits), 1));
    const {onList, ...found} = asked(logits);
    assert.deepEqual(found, plain);
    assert.ok(Math.abs(onList - 1 / (1 + Math.exp(6 - logits[0]))) < 1e-6);
    assert.deepEqual(asked(logits, {offList: true}, {...INFO, off_list: null}), plain);
    assert.deepEqual(asked(logits, {offList: true, minConfidence: 0.1}), {
      ...answerOf(INFO, TREE, softmax(Float32Array.from(logits), 1), {minConfidence: 0.1}),
      onList,
    });
  }
});

test('asked for, an answer allows for what is not on the list: a species, its genus, or none', () => {
  const {answer} = asked([9, 0, 0, 0], {offList: true});
  assert.equal(answer.name, 'Morus bassanus');
  assert.ok(Math.abs(answer.probability - 0.9526 * 0.9996) < 1e-3);
  assert.equal(asked([7, 0, 0, 0], {offList: true}).answer.rank, 'genus'); // 0.73 at the species, 0.88 above
  assert.equal(asked([4, -9, -9, -9], {offList: true}).answer, null); // as sure among the list, but too far from it
  assert.equal(asked([4, -9, -9, -9]).answer.name, 'Morus bassanus');
});

test('with the list in doubt a node is as probable as those below it together, or more', () => {
  for (let seed = 1; seed < 50; seed++) {
    const logits = [1, 2, 3, 4].map((i) => 8 * Math.abs(Math.sin(seed * i)));
    const {ranks} = asked(logits, {offList: true});
    for (const [high, low] of [
      ['kingdom', 'genus'],
      ['genus', 'species'],
    ]) {
      const inside = ranks[low].path.slice(0, ranks[high].path.length).join() === ranks[high].path.join();
      if (inside) assert.ok(ranks[high].probability >= ranks[low].probability - 1e-12);
    }
  }
});
