"""supervisord: its XML-RPC client, its program files, its start, and the processes that outlived it."""
