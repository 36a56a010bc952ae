"""What is reused is right or refused, whatever was killed, damaged, edited or hostile."""
