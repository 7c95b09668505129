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
import {gzipSync} from 'node:zlib';

import {checkPackage, createPackageFromTarballData} from '@arethetypeswrong/core';
import {build} from 'esbuild';
import {publint} from 'publint';

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
  for (const name of ['.', './native', './native/expo', './native/camera']) {
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

/** The tarball that npm would publish. */
async function packed(folder) {
  const args = ['pack', '--silent', '--ignore-scripts', '--pack-destination', folder];
  const {stdout} = await promisify(execFile)('npm', args, {cwd: PACKAGE});
  return new Uint8Array(await readFile(path.join(folder, stdout.trim()))).buffer;
}

test('publint and attw find nothing wrong with what is packed', () =>
  inFolder(async (folder) => {
    const tarball = await packed(folder);
    const {messages} = await publint({pack: {tarball}});
    assert.deepEqual(messages, []);
    const {problems} = await checkPackage(createPackageFromTarballData(new Uint8Array(tarball)));
    // The package is of modules alone, which require() loads too from Node 20.19 on.
    const others = problems.filter(({kind}) => kind !== 'CJSResolvesToESM');
    assert.deepEqual(others, []);
  }));

/** Bytes of an entry with what it imports of this package, minified and gzipped; TensorFlow.js is the application's. */
async function sizeOf(name) {
  const {outputFiles} = await build({
    entryPoints: [path.join(PACKAGE, entries[name].default)],
    bundle: true,
    minify: true,
    write: false,
    format: 'esm',
    external: ['@tensorflow/*', 'react', 'react/*', 'react-native', 'expo-*', 'jpeg-js'],
  });
  return gzipSync(outputFiles[0].contents).length;
}

test('entries stay small', async () => {
  for (const [name, limit] of [
    ['.', 18_000],
    ['./react', 20_000],
    ['./native', 18_000],
    ['./native/camera', 3_000],
  ]) {
    const bytes = await sizeOf(name);
    assert.ok(bytes < limit, `${name} has ${bytes} bytes gzipped, more than ${limit}`);
  }
  const all = gzipSync(await readFile(path.join(PACKAGE, 'dist', 'cdn.js')));
  assert.ok(all.length < 210_000, `with TensorFlow.js in one file: ${all.length} bytes gzipped`);
});

test('source maps hold their sources, and the licence is that of the repository', async () => {
  const map = JSON.parse(await readFile(path.join(PACKAGE, 'dist', 'index.js.map'), 'utf8'));
  assert.equal(map.sourcesContent[0], await readFile(path.join(PACKAGE, 'src', 'index.ts'), 'utf8'));
  const licence = await readFile(path.join(PACKAGE, '..', '..', 'LICENSE'), 'utf8');
  for (const folder of ['react-bio-clip', 'react-bio-clip-sample']) {
    assert.equal(await readFile(path.join(PACKAGE, '..', folder, 'LICENSE'), 'utf8'), licence);
  }
});
