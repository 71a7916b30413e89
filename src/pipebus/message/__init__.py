"""What travels: messages, headers, ids, outcomes, subjects, and their form as bytes."""
