import assert from 'node:assert/strict';
import {test} from 'node:test';

import {recalibrate} from '../dist/index.js';
import {answerOf, plantTree} from '../dist/core/tree.js';
import {makeBundle, TAXA} from './fixture.js';

const {bundle: INFO} = makeBundle();
const TREE = plantTree(INFO);
const answer = (probabilities, options) => answerOf(INFO, TREE, Float64Array.from(probabilities), options);
const [GANNET, , WHITE] = TAXA.map(({ranks}) => ranks);

test('thresholds of a site hold for classify, and too few answers give none', () => {
  const sure = {answer: answer([0.96, 0.02, 0.01, 0.01]), label: GANNET};
  const few = recalibrate(INFO, Array(44).fill(sure));
  assert.deepEqual([few.thresholds, few.tooFew, few.before.of], [null, true, 44]);
  const wrong = {answer: answer([0.3, 0.02, 0.66, 0.02]), label: GANNET};
  const found = recalibrate(INFO, [...Array(95).fill(sure), ...Array(5).fill(wrong)]);
  const {species} = found.thresholds.ranks;
  assert.ok(species > 0.7 && species <= 0.96, `${species}`);
  assert.deepEqual([found.now.right, found.now.of], [95, 95]);
  const unsure = [0.3, 0.02, 0.66, 0.02];
  assert.equal(answer(unsure, {minConfidence: 0.6}).answer.name, 'Morus alba');
  assert.equal(answer(unsure, {thresholds: found.thresholds.ranks}).answer, null);
});

test('a label above the answer cannot tell, another branch is wrong', () => {
  const of = (label) => recalibrate(INFO, [{answer: answer([0, 0, 0.95, 0.05]), label}]).before;
  assert.deepEqual([of(WHITE).right, of(WHITE).of], [1, 1]);
  assert.deepEqual([of(WHITE.slice(0, 5)).right, of(WHITE.slice(0, 5)).of], [0, 0]);
  assert.deepEqual([of(GANNET).right, of(GANNET).of], [0, 1]);
  assert.deepEqual([of(null).right, of(null).of], [0, 1]);
});
