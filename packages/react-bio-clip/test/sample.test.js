/** react-bio-clip-sample: what its script makes of a data folder, and what it refuses. */

import assert from 'node:assert/strict';
import {execFile} from 'node:child_process';
import {cp, mkdir, mkdtemp, rm, symlink, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {fileURLToPath, pathToFileURL} from 'node:url';
import {promisify} from 'node:util';

import sharp from 'sharp';

import {decode} from '../dist/core/node.js';
import {loadBioClip} from '../dist/index.js';
import {makeBundle, plain, writeBundle} from './fixture.js';

const run = promisify(execFile);
const PACKAGE = fileURLToPath(new URL('..', import.meta.url));
let folder;
let sample;
before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sample-'));
  sample = path.join(folder, 'react-bio-clip-sample');
  await cp(path.join(PACKAGE, '..', 'react-bio-clip-sample'), sample, {recursive: true});
  await rm(path.join(sample, 'index.js'), {force: true}); // of the real sample
  await symlink(PACKAGE, path.join(folder, 'react-bio-clip'));
});
after(() => rm(folder, {recursive: true}));

/** A data folder of the pipeline with a model made from `source`, and two photographs of red; the first is mislabelled. */
async function dataOf(source) {
  const data = path.join(folder, source);
  await mkdir(path.join(data, 'shard'), {recursive: true});
  await writeBundle(path.join(data, 'convert', 'tfjs'), makeBundle({attribution: [{name: source, photographs: 9}]}));
  const raw = {width: 20, height: 14, channels: 3};
  const red = await sharp(plain([255, 0, 0]).data, {raw})
    .jpeg({quality: 95})
    .toBuffer();
  const names = ['morus_alba-test-0000-a.jpg', 'morus_bassanus-test-0000-a.jpg'];
  for (const name of names) await writeFile(path.join(data, name), red);
  await run('tar', ['-cf', path.join(data, 'shard', 'test-00000.tar'), '--format=ustar', '-C', data, ...names]);
  return data;
}

const make = (data) => run(process.execPath, [path.join(sample, 'scripts', 'make.mjs'), data]);

test('the package answers from what the pipeline made of the sample', async () => {
  await make(await dataOf('bioclip-lite synthetic sample'));
  const {default: bundled, photo, shows} = await import(pathToFileURL(path.join(sample, 'index.js')).href);
  assert.equal(shows, 'Morus bassanus');
  const clip = await loadBioClip(bundled); // as the README has it: Node finds the WebAssembly files itself
  assert.equal((await clip.classify(await decode(photo))).answer.name, shows);
  clip.dispose();
});

test('a model of other photographs is refused', async () => {
  const failed = ({code, stderr}) => code === 1 && /made from my garden, not from the built-in sample/.test(stderr);
  await assert.rejects(make(await dataOf('my garden')), failed);
  await assert.rejects(
    make(path.join(folder, 'nothing')),
    ({code, stderr}) => code === 1 && !stderr.includes('    at '),
  );
});
