import {loadBioClip} from 'react-bio-clip';
import {decode} from 'react-bio-clip/node';
import sample, {photo, shows} from 'react-bio-clip-sample';

const clip = await loadBioClip(sample);
const {answer} = await clip.classify(await decode(photo));
console.log(answer?.name === shows ? 'right' : `${answer?.name} is not ${shows}`);
