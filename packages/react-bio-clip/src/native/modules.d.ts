/**
 * Declarations of modules that the application installs, as far as expo.ts and camera.tsx use them: only React Native
 * projects have them. packages/example-expo passes the modules themselves to the adapter, which checks that part.
 */

declare module 'expo-asset' {
  export class Asset {
    static fromModule(id: number | string): Asset;
    downloadAsync(): Promise<Asset>;
    name: string;
    localUri: string | null;
  }
}

declare module 'expo-camera' {
  import type {ComponentType, Ref} from 'react';

  export interface CameraView {
    takePictureAsync(options?: {quality?: number; shutterSound?: boolean}): Promise<{uri: string}>;
    pausePreview(): Promise<void>;
    resumePreview(): Promise<void>;
  }
  export const CameraView: ComponentType<{
    ref?: Ref<CameraView>;
    style?: object;
    facing?: 'back' | 'front';
    enableTorch?: boolean;
    onCameraReady?: () => void;
    onMountError?: (event: {message: string}) => void;
  }>;
  export interface PermissionResponse {
    granted: boolean;
    canAskAgain: boolean;
  }
  export function useCameraPermissions(): [PermissionResponse | null, () => Promise<PermissionResponse>, ...unknown[]];
}

declare module 'react-native' {
  import type {ComponentType, ReactNode} from 'react';

  export const View: ComponentType<{
    style?: object | undefined;
    accessibilityLiveRegion?: 'polite';
    children?: ReactNode;
  }>;
  export const Text: ComponentType<{style?: object; accessibilityRole?: 'alert'; children?: ReactNode}>;
  export const Pressable: ComponentType<{
    style?: object;
    accessibilityRole?: 'button';
    accessibilityState?: {disabled: boolean};
    disabled?: boolean;
    onPress?: () => void;
    children?: ReactNode;
  }>;
  export const Linking: {openSettings(): Promise<void>};
  export const AppState: {
    currentState: string;
    addEventListener(type: 'change', listener: (state: string) => void): {remove(): void};
  };
}
