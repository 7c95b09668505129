/** A module for pages without a bundler: scripts/build.mjs puts the package and TensorFlow.js into one file, dist/cdn.js. */

export * from './index.js';
