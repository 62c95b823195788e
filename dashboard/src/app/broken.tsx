// A screen that breaks says so and leaves the rest of the page working.

import { Button, Code, Stack, Text, Title } from '@mantine/core';
import { Component, type ReactNode, useEffect, useState } from 'react';
import { useConnection } from '../live/connection';
import { origin } from '../live/elsewhere';

export class Broken extends Component<{ children: ReactNode }, { error: Error | undefined }> {
  override state: { error: Error | undefined } = { error: undefined };

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  override render() {
    return this.state.error ? <BrokenScreen error={this.state.error} /> : this.props.children;
  }
}

export function BrokenScreen({ error }: { error: Error }) {
  const unloadable = /dynamically imported module|Importing a module|preload/i.test(error.message);
  const { state, epoch } = useConnection();
  const [first] = useState(epoch);
  // The address says all that the screen is to show: loading it again loses nothing.
  useEffect(() => {
    if (unloadable && state === 'live' && epoch !== first && origin() === '') location.reload();
  }, [unloadable, state, epoch, first]);
  return (
    <Stack className="card" role="alert" m="lg" gap="sm" align="flex-start">
      <Title order={1}>{unloadable ? 'This screen could not be loaded' : 'This screen has a fault'}</Title>
      <Text>
        {unloadable
          ? 'The node does not answer, or it was upgraded since this page was opened. It is loaded as soon as the node is back.'
          : 'Nothing was changed in the cluster. Load the page again; if it comes back, report what is below.'}
      </Text>
      <Code block>{error.message}</Code>
      <Button onClick={() => location.reload()}>Load again</Button>
    </Stack>
  );
}
