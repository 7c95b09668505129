/** Text that states whether this page will open without a network. */

import {useEffect, useState} from 'react';

export function useOffline(loaded: boolean, inParts: boolean): string {
  const [controlled, setControlled] = useState(false);
  useEffect(() => {
    const {serviceWorker} = navigator;
    if (!serviceWorker) return undefined;
    const look = () => setControlled(serviceWorker.controller !== null);
    look();
    serviceWorker.addEventListener('controllerchange', look);
    return () => serviceWorker.removeEventListener('controllerchange', look);
  }, []);
  useEffect(() => {
    // Or the browser may delete the model when another page needs room. Some browsers ask the visitor.
    if (loaded && controlled) void navigator.storage?.persist?.();
  }, [loaded, controlled]);

  if (location.protocol === 'file:') return 'This page is one file. It needs no network.';
  if (!('serviceWorker' in navigator))
    return 'Opened from https, or from this device itself, it would also work offline.';
  if (!controlled || !loaded) return '';
  return inParts
    ? 'Stored on this device: this page works offline from now on, with the names that were loaded.'
    : 'Stored on this device: this page works offline from now on.';
}
