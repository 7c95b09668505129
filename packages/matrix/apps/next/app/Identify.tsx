'use client';

import {useEffect} from 'react';
import {BioClipCamera, useBioClip} from 'react-bio-clip/react';
import sample, {photo, shows} from 'react-bio-clip-sample';

const OPTIONS = {wasmPaths: '/wasm/'};

export function Identify() {
  const {status, error, classify} = useBioClip(sample, OPTIONS);
  useEffect(() => {
    if (status === 'error') document.title = String(error?.message);
    if (status !== 'ready') return;
    classify(new Blob([photo])).then(({answer}) => {
      document.title = answer?.name === shows ? 'right' : `${answer?.name} is not ${shows}`;
    });
  }, [status, error, classify]);
  return (
    <BioClipCamera classify={classify} ready={status === 'ready'}>
      {({answer}) => answer?.answer?.name}
    </BioClipCamera>
  );
}
