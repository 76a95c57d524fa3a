"""Who a client is: accounts, passwords, tokens and their keys."""
