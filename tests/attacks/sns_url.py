"""SNS notifications with a certificate URL of 1.9 MB.

They are not authentic, so their log lines must stay short, and nothing may be fetched."""

import json

from kit import Api, Postern, check

TOPIC = "arn:aws:sns:eu-west-1:111111111111:inbound"


def main():
    more = {"server": 'inbound = ["smtp", "lmtp", "webhook"]', "webhook.ses": f'topics = ["{TOPIC}"]'}
    with Api() as api, Postern(api.url, more) as postern:
        begun = len(postern.log())
        for number in range(30):
            note = {
                "Type": "Notification", "MessageId": f"m-{number}", "TopicArn": TOPIC, "Message": "{}",
                "Timestamp": "2026-11-20T10:00:00.000Z", "SignatureVersion": "2", "Signature": "AAAA",
                "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/" + "a" * 1_900_000 + ".pem",
            }
            status, _, _ = postern.call("POST", "/gateway/inbound/ses", json.dumps(note).encode(),
                                        {"Content-Type": "text/plain", "x-amz-sns-message-type": "Notification"})
            check(400 <= status < 600, f"an unproven notification is answered {status}")
        log = postern.log()[begun:]
        longest = max((len(line) for line in log.splitlines()), default=0)
        print(f"30 notifications: {len(log)} octets of log, longest line {longest}")
        check(len(log) < 64 * 1024, f"the log grew by {len(log)} octets")
        check(longest < 2048, f"a line of {longest} octets")


if __name__ == "__main__":
    main()
