// GraphiQL over this gateway: HTTP for queries and mutations, graphql-transport-ws for subscriptions.
// The token stays in this tab: it is kept in sessionStorage and sent only to our own origin.
import 'graphiql/setup-workers/vite';
import 'graphiql/style.css';
import './graphiql.css';

import { createGraphiQLFetcher } from '@graphiql/toolkit';
import { GraphiQL } from 'graphiql';
import { createClient } from 'graphql-ws';
import { createElement, useMemo, useState } from 'react';
import { createRoot } from 'react-dom/client';

const KEY = 'hiveward-token';

const EXAMPLE = `# Hiveward: press Ctrl-Enter to run.
query Look {
  cluster { term cursor viewLag disk }
  swarms(first: 10) { nodes { id name agentCount taskCounts { status count } } }
  tasks(first: 10) { nodes { id title status why } }
}
`;

function Page() {
  const [token, setToken] = useState(sessionStorage.getItem(KEY) ?? '');
  const fetcher = useMemo(() => {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const wsClient = createClient({
      url: `${location.origin.replace(/^http/, 'ws')}/graphql/ws`,
      connectionParams: headers,
      lazy: true,
    });
    return createGraphiQLFetcher({ url: '/graphql', headers, wsClient });
  }, [token]);
  const submit = (event) => {
    event.preventDefault();
    const value = new FormData(event.currentTarget).get('token').trim();
    sessionStorage.setItem(KEY, value);
    setToken(value);
  };
  return createElement(
    'div',
    { className: 'page' },
    createElement(
      'form',
      { className: 'token', onSubmit: submit },
      createElement('a', { href: '/' }, 'Hiveward'),
      createElement('label', { htmlFor: 'token' }, 'Token'),
      createElement('input', {
        id: 'token',
        name: 'token',
        type: 'password',
        autoComplete: 'off',
        defaultValue: token,
        placeholder: 'hw_… from admin.token in the data directory',
      }),
      createElement('button', { type: 'submit' }, 'Use'),
    ),
    // A new token is a new session: the schema is fetched again.
    createElement(GraphiQL, { key: token, fetcher, defaultQuery: EXAMPLE }),
  );
}

createRoot(document.getElementById('root')).render(createElement(Page));
