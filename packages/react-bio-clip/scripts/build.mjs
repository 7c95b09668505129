#!/usr/bin/env node
/**
 * Compile src to dist unless dist is up to date. `build.mjs core` compiles the part that the pipeline runs; without an
 * argument the other parts too, which leaves a current dist/core alone, because the pipeline may be running it, and
 * dist/cdn.js, one file with all that a page without a bundler needs.
 */

import {spawnSync} from 'node:child_process';
import {existsSync, lstatSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {fileURLToPath} from 'node:url';

import {buildSync} from 'esbuild';

import {mark} from '../bin/built.mjs';

const root = fileURLToPath(new URL('../', import.meta.url));
const dist = `${root}dist`;
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');

function build(project, part) {
  const built = mark(part); // before compiling: later changes are not in dist
  if (existsSync(built)) return;
  // A link leads to the dist of another checkout, which must stay.
  if (lstatSync(dist, {throwIfNoEntry: false})?.isSymbolicLink()) rmSync(dist);
  if (part) rmSync(`${dist}/${part}`, {recursive: true, force: true});
  else for (const name of readdirSync(dist)) if (name !== 'core') rmSync(`${dist}/${name}`, {recursive: true});
  const {status} = spawnSync(process.execPath, [tsc, '-p', project], {cwd: root, stdio: 'inherit'});
  if (status !== 0) process.exit(1);
  if (!part) bundle();
  writeFileSync(built, '');
}

function bundle() {
  buildSync({
    entryPoints: [`${dist}/cdn.js`],
    outfile: `${dist}/cdn.js`,
    allowOverwrite: true,
    bundle: true,
    format: 'esm',
    // The names stay: threads of WebAssembly get functions as text, which refer to others by name.
    minifySyntax: true,
    minifyWhitespace: true,
    legalComments: 'eof',
    logLevel: 'warning',
  });
  for (const name of ['cdn.js.map', 'cdn.d.ts']) rmSync(`${dist}/${name}`);
}

build('tsconfig.core.json', 'core');
if (process.argv[2] !== 'core') build('tsconfig.json', '');
