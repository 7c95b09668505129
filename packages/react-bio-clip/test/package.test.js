/** The package as an application installs it: what its tools and other versions of them find. */

import assert from 'node:assert/strict';
import {execFile} from 'node:child_process';
import {mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile} from 'node:fs/promises';
import {createRequire} from 'node:module';
import {tmpdir} from 'node:os';
import path from 'node:path';
import {test} from 'node:test';
import {fileURLToPath} from 'node:url';
import {promisify} from 'node:util';

import {writeBundle} from './fixture.js';

const PACKAGE = fileURLToPath(new URL('..', import.meta.url));
const TSC = createRequire(import.meta.url).resolve('typescript/bin/tsc');
const {exports: entries, files} = JSON.parse(await readFile(path.join(PACKAGE, 'package.json'), 'utf8'));

async function inFolder(work) {
  const folder = await mkdtemp(path.join(tmpdir(), 'package-'));
  try {
    await work(folder);
  } finally {
    await rm(folder, {recursive: true});
  }
}

for (const [resolution, module] of [
  ['node10', 'commonjs'],
  ['bundler', 'esnext'],
]) {
  test(`every entry has its types with moduleResolution ${resolution}`, () =>
    inFolder(async (folder) => {
      await mkdir(path.join(folder, 'node_modules'));
      await symlink(PACKAGE, path.join(folder, 'node_modules', 'react-bio-clip'));
      const names = Object.keys(entries).filter((name) => name !== './package.json');
      assert.ok(names.length > 4);
      const lines = names.map((name, i) => `import * as m${i} from 'react-bio-clip${name.slice(1)}';\nvoid m${i};`);
      const uses = `import {useBioClip} from 'react-bio-clip/react';\nconst n: number = useBioClip;`;
      await writeFile(path.join(folder, 'a.ts'), `${lines.join('\n')}\n${uses}\n`);
      const options = ['--noEmit', '--skipLibCheck', '--module', module, '--moduleResolution', resolution];
      const {stdout} = await promisify(execFile)(process.execPath, [TSC, ...options, '--target', 'es2022', 'a.ts'], {
        cwd: folder,
      }).catch((failure) => failure);
      // the types are those of the package: one line is wrong on purpose
      assert.match(stdout.trim(), /^a\.ts\(\d+,7\): error TS2322: [^\n]*UseBioClip[^\n]*$/);
    }));
}

/** As Metro of React Native 0.72 resolves a path in a package: it knows no `exports`. */
async function withoutExports(name) {
  const target = path.join(PACKAGE, name);
  const isFile = (file) =>
    stat(file).then(
      (found) => found.isFile(),
      () => false,
    );
  for (const file of [target, `${target}.js`]) if (await isFile(file)) return file;
  const described = path.join(target, 'package.json');
  const {main = 'index.js'} = (await isFile(described)) ? JSON.parse(await readFile(described, 'utf8')) : {};
  const file = path.join(target, main);
  return (await isFile(file)) ? file : null;
}

test("React Native's entries are found without exports, and are packed", async () => {
  for (const name of ['.', './native', './native/expo']) {
    assert.equal(await withoutExports(name), path.join(PACKAGE, entries[name].default));
  }
  assert.ok(files.includes('native'));
});

test("React's entry is a module of the client", async () => {
  const code = await readFile(path.join(PACKAGE, 'dist', 'react', 'index.js'), 'utf8');
  assert.match(code, /^'use client';\n/);
});

test('without sharp, classify names it', () =>
  inFolder(async (folder) => {
    const hook = `export const resolve = (name, context, next) => {
      if (name !== 'sharp') return next(name, context);
      throw Object.assign(new Error("Cannot find package 'sharp'"), {code: 'ERR_MODULE_NOT_FOUND'});
    };`;
    const register = `import {register} from 'node:module'; register(${JSON.stringify(`data:text/javascript,${encodeURIComponent(hook)}`)});`;
    await writeFile(path.join(folder, 'without.mjs'), register);
    await writeBundle(path.join(folder, 'bundle'));
    await writeFile(path.join(folder, 'a.jpg'), 'no matter');
    const command = [path.join(PACKAGE, 'bin', 'classify.mjs'), 'bundle', 'a.jpg'];
    const running = promisify(execFile)(process.execPath, ['--import', './without.mjs', ...command], {cwd: folder});
    await assert.rejects(running, ({code, stderr}) => {
      assert.match(stderr, /npm install sharp/);
      assert.equal(stderr.trim().split('\n').length, 1);
      return code === 1;
    });
  }));
