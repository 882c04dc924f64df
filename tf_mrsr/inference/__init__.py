"""From a raw volume to a super-resolved one, in bounded memory."""
