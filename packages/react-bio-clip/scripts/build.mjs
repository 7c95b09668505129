#!/usr/bin/env node
/**
 * src to dist, unless that has been done. `build.mjs core` makes what the pipeline runs; without an argument React and
 * the others as well, which leaves dist/core alone, because somebody may be running it.
 */

import {spawnSync} from 'node:child_process';
import {existsSync, lstatSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {fileURLToPath} from 'node:url';

import {mark} from '../bin/built.mjs';

const root = fileURLToPath(new URL('../', import.meta.url));
const dist = `${root}dist`;
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');

function build(project, part) {
  const built = mark(part); // before compiling: what changes meanwhile is not in dist
  if (existsSync(built)) return;
  // A link leads to the dist of another checkout, which is left as it is.
  if (lstatSync(dist, {throwIfNoEntry: false})?.isSymbolicLink()) rmSync(dist);
  if (part) rmSync(`${dist}/${part}`, {recursive: true, force: true});
  else for (const name of readdirSync(dist)) if (name !== 'core') rmSync(`${dist}/${name}`, {recursive: true});
  const {status} = spawnSync(process.execPath, [tsc, '-p', project], {cwd: root, stdio: 'inherit'});
  if (status !== 0) process.exit(1);
  writeFileSync(built, '');
}

build('tsconfig.core.json', 'core');
if (process.argv[2] !== 'core') build('tsconfig.json', '');
