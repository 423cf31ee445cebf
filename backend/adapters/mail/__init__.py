"""Mail: over SMTP, or as files where nobody has set a mail server up."""
