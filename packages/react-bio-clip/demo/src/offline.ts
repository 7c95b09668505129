/** Text that states whether this page will open without a network. */

import {useEffect, useState} from 'react';

export function useOffline(loaded: boolean): string {
  const [controlled, setControlled] = useState(false);
  useEffect(() => {
    const {serviceWorker} = navigator;
    if (!serviceWorker) return undefined;
    const look = () => setControlled(serviceWorker.controller !== null);
    look();
    serviceWorker.addEventListener('controllerchange', look);
    return () => serviceWorker.removeEventListener('controllerchange', look);
  }, []);

  if (location.protocol === 'file:') return 'This page is one file. It needs no network.';
  if (!('serviceWorker' in navigator))
    return 'Opened from https, or from this device itself, it would also work offline.';
  return controlled && loaded ? 'Stored on this device: this page works offline from now on.' : '';
}
