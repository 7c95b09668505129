/** In the page and in a worker: both must name what the photograph shows. */

import {loadBioClip, loadInWorker} from 'react-bio-clip';
import sample, {photo, shows} from 'react-bio-clip-sample';

const options = {wasmPaths: '/wasm/'};
const worker = new Worker(new URL('./worker.js', import.meta.url), {type: 'module'});
const clips = [await loadBioClip(sample, options), await loadInWorker(worker, sample, options)];
const answers = await Promise.all(clips.map((clip) => clip.classify(new Blob([photo]))));
const names = answers.map(({answer}) => answer?.name);
document.title = names.every((name) => name === shows) ? 'right' : `${names} is not ${shows}`;
