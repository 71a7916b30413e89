"""From the mailbox to the handler."""
