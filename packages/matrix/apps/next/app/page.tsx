import {Identify} from './Identify';

export default function Page() {
  return <Identify />;
}
