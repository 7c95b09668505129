/** Two forms of one page: a site, and (mode single) the parts of a single file. make.mjs builds both. */

import {createHash} from 'node:crypto';
import {readFileSync, readdirSync} from 'node:fs';
import {fileURLToPath} from 'node:url';

import {defineConfig} from 'vite';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** Write the service worker: sw.js with the list of the page's files. Files for browsers without SIMD load on demand. */
function serviceWorker() {
  return {
    name: 'service-worker',
    enforce: 'post', // after the style sheet
    generateBundle(_, bundle) {
      const built = Object.keys(bundle).filter((name) => !/wasm-(?!simd)[^/]*\.wasm$/.test(name));
      const files = ['./', ...built.filter((name) => name !== 'index.html'), ...readdirSync(here('public'))].sort();
      const hash = createHash('sha256');
      for (const name of Object.keys(bundle).sort()) hash.update(name).update(bundle[name].code ?? bundle[name].source);
      for (const name of readdirSync(here('public')).sort()) hash.update(readFileSync(here(`public/${name}`)));
      const told = {version: hash.digest('hex').slice(0, 12), files};
      const source = `const PAGE = ${JSON.stringify(told, null, 1)};\n\n${readFileSync(here('sw.js'), 'utf8')}`;
      this.emitFile({type: 'asset', fileName: 'sw.js', source});
    },
  };
}

export default defineConfig(({mode}) => {
  const single = mode === 'single';
  return {
    root: here('.'),
    base: './',
    resolve: {
      alias: [
        {find: /^react-bio-clip$/, replacement: here('../src/index.ts')},
        {find: 'react-bio-clip/react', replacement: here('../src/react/index.ts')},
      ],
    },
    plugins: single ? [] : [serviceWorker()],
    build: {
      emptyOutDir: true,
      copyPublicDir: !single,
      assetsInlineLimit: single ? Number.MAX_SAFE_INTEGER : 0,
      cssCodeSplit: false,
      chunkSizeWarningLimit: 2000, // TensorFlow.js
      rolldownOptions: {
        checks: {pluginTimings: false, moduleLevelDirective: false},
        output: single ? {codeSplitting: false} : {},
      },
    },
    preview: {headers: {'cache-control': 'no-cache'}},
  };
});
