/** The camera of a phone in React Native, by expo-camera, with the model's answers. */

import {CameraView, useCameraPermissions} from 'expo-camera';
import {useCallback, useEffect, useRef, useState} from 'react';
import type {ReactNode} from 'react';
import {AppState, Linking, Pressable, Text, View} from 'react-native';

import type {Answer, ClassifyOptions} from '../core/types.js';
import {repeat, type PropsOf, type ViewOf} from '../react/camera.js';

/** All texts of the component; replace them to translate it. */
export interface NativeCameraLabels {
  shutter: string;
  again: string;
  retry: string;
  allow: string;
  settings: string;
  starting: string;
  working: string;
  ask: string;
  refused: string;
  busy: string;
  failed: string;
}

/** The photograph is an address. */
export type NativeCameraView = ViewOf<string>;

/** Styles of the parts, as React Native's `style`. */
export interface NativeCameraStyles {
  camera?: object;
  preview?: object;
  button?: object;
  label?: object;
  message?: object;
  answer?: object;
}

export interface NativeCameraProps extends PropsOf<string, NativeCameraLabels> {
  /** `clip.classifyUri`. Undefined while the model loads: the preview runs, the shutter waits. */
  classifyUri: ((uri: string, options?: ClassifyOptions) => Promise<Answer>) | undefined;
  facing?: 'back' | 'front';
  torch?: boolean;
  /** Deletes the file of a continuous answer, which the camera leaves in the cache folder: `(uri) => new File(uri).delete()`. */
  remove?: (uri: string) => void;
  styles?: NativeCameraStyles;
}

const LABELS: NativeCameraLabels = {
  shutter: 'Take a photograph',
  again: 'Take another',
  retry: 'Try again',
  allow: 'Allow the camera',
  settings: 'Open the settings',
  starting: 'Starting the camera …',
  working: 'Looking …',
  ask: 'The camera shows what is in front of it to the model. Photographs stay on this device.',
  refused: 'The camera may not be used. Allow it for this application in the settings of the device.',
  busy: 'The camera does not answer. Another application may be using it.',
  failed: 'That did not work',
};

const NOTHING: NativeCameraView = {answer: null, working: false, error: null, photo: null};
/** The least height of what is pressed, in both guidelines. */
const BUTTON = {minHeight: 48, justifyContent: 'center', alignItems: 'center'};

/**
 * Preview, shutter (or continuous answers), and what to do where the camera may not be used.
 *
 * It has no style but the shape of the preview and the size of buttons. Continuous answers pause while the application is
 * in the background.
 */
export function BioClipCamera(props: NativeCameraProps): ReactNode {
  const {
    classifyUri,
    continuous = false,
    interval = 300,
    facing = 'back',
    torch = false,
    styles = {},
    children,
  } = props;
  const labels = {...LABELS, ...props.labels};
  const latest = useRef(props);
  useEffect(() => {
    latest.current = props;
  });

  const camera = useRef<CameraView>(null);
  const pending = useRef<AbortController | null>(null);
  const isPaused = useRef(false);
  const [permission, ask] = useCameraPermissions();
  const [attempt, setAttempt] = useState(0);
  const [running, setRunning] = useState(false);
  const [isBusy, setIsBusy] = useState(false);
  const [view, setView] = useState(NOTHING);

  /** Take a photograph and classify it; it is kept where `keep` is true. */
  const look = useCallback(
    async (keep: boolean) => {
      if (!camera.current || !classifyUri) return;
      const controller = new AbortController();
      pending.current?.abort();
      pending.current = controller;
      const {signal} = controller;
      setView((last) => ({...(keep ? NOTHING : last), working: true, error: null}));
      try {
        const {uri} = await camera.current.takePictureAsync({quality: 1, shutterSound: keep});
        const photo = keep ? uri : null;
        try {
          if (signal.aborted) return;
          if (keep) {
            setView({...NOTHING, working: true, photo});
            isPaused.current = true;
            await camera.current?.pausePreview();
            latest.current.onPhoto?.(uri);
          }
          const answer = await classifyUri(uri, {...latest.current.options, signal});
          if (signal.aborted) return;
          setView({answer, working: false, error: null, photo});
          latest.current.onAnswer?.(answer, photo);
        } finally {
          if (!keep) latest.current.remove?.(uri);
        }
      } catch (error) {
        if (signal.aborted) return;
        const told = error instanceof Error ? error : new Error(String(error));
        setView((last) => ({...last, working: false, error: told}));
      }
    },
    [classifyUri],
  );
  // biome-ignore lint/correctness/useExhaustiveDependencies: an answer of another model is not waited for
  useEffect(() => () => pending.current?.abort(), [classifyUri]);

  const resume = useCallback(() => {
    pending.current?.abort();
    setView(NOTHING);
    if (isPaused.current) camera.current?.resumePreview().catch(() => setIsBusy(true));
    isPaused.current = false;
  }, []);

  useEffect(() => {
    if (!continuous || !running) return undefined;
    resume(); // the shutter stopped the preview
    const stop = repeat(async () => {
      if (AppState.currentState === 'active') await look(false);
    }, interval);
    return () => {
      stop();
      pending.current?.abort();
    };
  }, [continuous, running, interval, look, resume]);

  const button = (label: string, onPress: () => void, disabled = false) => (
    <Pressable
      accessibilityRole="button"
      accessibilityState={{disabled}}
      disabled={disabled}
      onPress={onPress}
      style={{...BUTTON, ...styles.button}}
    >
      <Text style={{...styles.label, ...(disabled && {opacity: 0.5})}}>{label}</Text>
    </Pressable>
  );
  const message = (text: string, action: ReactNode) => (
    <View style={styles.camera}>
      <Text accessibilityRole="alert" style={{...styles.message}}>
        {text}
      </Text>
      {action}
    </View>
  );

  if (!permission) return <View style={styles.camera} />;
  if (!permission.granted) {
    if (permission.canAskAgain)
      return message(
        labels.ask,
        button(labels.allow, () => void ask()),
      );
    return message(
      labels.refused,
      button(labels.settings, () => void Linking.openSettings()),
    );
  }
  if (isBusy) {
    const retry = () => {
      setIsBusy(false);
      setAttempt(attempt + 1);
    };
    return message(labels.busy, button(labels.retry, retry));
  }
  return (
    <View style={styles.camera}>
      <CameraView
        key={attempt}
        ref={camera}
        style={{aspectRatio: 3 / 4, width: '100%', ...styles.preview}}
        facing={facing}
        enableTorch={torch}
        onCameraReady={() => setRunning(true)}
        onMountError={() => {
          setRunning(false);
          setIsBusy(true);
        }}
      />
      {!continuous && view.photo !== null && button(labels.again, resume)}
      {!continuous &&
        view.photo === null &&
        button(labels.shutter, () => void look(true), !running || !classifyUri || view.working)}
      <View accessibilityLiveRegion="polite" style={styles.answer}>
        {!running && <Text style={{...styles.message}}>{labels.starting}</Text>}
        {view.error && (
          <Text style={{...styles.message}}>
            {labels.failed}: {view.error.message}
          </Text>
        )}
        {typeof children === 'function' ? children(view) : children}
        {view.working && !continuous && <Text style={{...styles.message}}>{labels.working}</Text>}
      </View>
    </View>
  );
}
