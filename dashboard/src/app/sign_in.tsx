// Asks for a token, tries it, and says where to find one.
import { Alert, Button, Checkbox, Code, PasswordInput, Stack, Text, Title } from '@mantine/core';
import { type FormEvent, useState } from 'react';
import mark from '../assets/mark.svg';
import { signIn, useSession } from '../live/session';

export default function SignIn() {
  const { refused } = useSession();
  const [value, setValue] = useState('');
  const [keep, setKeep] = useState(false);
  const [trying, setTrying] = useState(false);
  const [problem, setProblem] = useState<string>();
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    const token = value.trim();
    setTrying(true);
    setProblem(undefined);
    const said = await tried(token);
    setTrying(false);
    if (said === undefined) signIn(token, keep);
    else setProblem(said);
  };
  return (
    <main style={{ maxWidth: 440, margin: '12vh auto 0', padding: '0 1rem' }}>
      <form onSubmit={submit} className="card" style={{ padding: '1.6rem' }}>
        <Stack>
          <div style={{ display: 'flex', alignItems: 'center', gap: 10 }}>
            <img src={mark} width={34} height={34} alt="" />
            <Title order={1}>Sign in to Hiveward</Title>
          </div>
          {refused && !problem && (
            <Alert color="yellow" variant="light" role="alert" styles={{ message: { color: 'var(--warn)' } }}>
              {refused}
            </Alert>
          )}
          <PasswordInput
            label="Token"
            placeholder="hw_…"
            value={value}
            onChange={(event) => setValue(event.currentTarget.value)}
            error={problem}
            autoComplete="current-password"
            name="token"
            required
            data-autofocus
            autoFocus
          />
          <Checkbox
            label="Keep me signed in on this computer"
            checked={keep}
            onChange={(event) => setKeep(event.currentTarget.checked)}
          />
          <Button type="submit" loading={trying} disabled={value.trim() === ''}>
            Sign in
          </Button>
          <Text size="sm" c="dimmed">
            The administrator’s token is on the node’s host, in <Code>admin.token</Code> in its data directory. Without
            “keep”, this tab forgets it when it is closed.
          </Text>
        </Stack>
      </form>
    </main>
  );
}

/** What is wrong with the token, if something is. */
async function tried(token: string): Promise<string | undefined> {
  try {
    const response = await fetch('/graphql', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${token}` },
      body: JSON.stringify({ query: '{ __typename }' }),
    });
    if (response.ok) return undefined;
    const body = (await response.json()) as { errors?: { message?: string }[] };
    return body.errors?.[0]?.message ?? `The node answered with status ${response.status}.`;
  } catch {
    return 'The node does not answer. See that it runs, then try again.';
  }
}
