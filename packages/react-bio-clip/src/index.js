export * from './bundle.js';
export * from './preprocess.js';
