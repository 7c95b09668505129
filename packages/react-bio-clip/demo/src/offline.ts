/** Text that states whether this page will open without a network. */

import {useEffect, useState} from 'react';

import {useTexts} from './texts.js';

export function useOffline(loaded: boolean, inParts: boolean): string {
  const {t} = useTexts();
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

  if (location.protocol === 'file:') return t('offline.file');
  if (!('serviceWorker' in navigator)) return t('offline.insecure');
  if (!controlled || !loaded) return '';
  return inParts ? t('offline.stored.parts') : t('offline.stored');
}
