import {predict} from './clip.js';
import {preprocessImage} from './preprocess.js';
import type {Bundle} from './bundle.js';
import type {Pixels} from './types.js';

/** Time one image on this backend, in milliseconds: the model alone, and the median of resize, crop and normalise. */
export interface Latency {
  median: number;
  min: number;
  runs: number;
  preprocess: number;
}

const WARM_UP = 5;

export function median(times: number[]): number {
  const sorted = [...times].sort((a, b) => a - b);
  return sorted[sorted.length >> 1]!;
}

async function time(runs: number, work: () => unknown): Promise<number[]> {
  const times = [];
  for (let i = 0; i < runs; i++) {
    const start = performance.now();
    await work();
    times.push(performance.now() - start);
  }
  return times;
}

export async function measureLatency(bundle: Bundle, image: Pixels, runs: number): Promise<Latency> {
  const input = preprocessImage(image, bundle.info.preprocess);
  await time(WARM_UP, () => predict(bundle, input));
  const model = await time(runs, () => predict(bundle, input));
  const preprocess = await time(runs, () => preprocessImage(image, bundle.info.preprocess));
  return {median: median(model), min: Math.min(...model), runs, preprocess: median(preprocess)};
}
