"""From `publish` to the mailbox."""
